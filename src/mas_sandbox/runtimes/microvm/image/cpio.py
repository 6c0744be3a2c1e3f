"""A writer of cpio archives in the "newc" format, the kernel's for an initramfs.

The format: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

_TRAILER = "TRAILER!!!"


def pack(entries: Iterator[tuple[str, int, bytes, tuple[int, int]]]) -> bytes:
    """One archive. An entry: path without a leading slash, st_mode, content (a link's
    target), and (major, minor) of a device. All belong to root; no time is kept, so
    that equal entries make equal archives.
    """
    archive = bytearray()
    for inode, (path, mode, content, device) in enumerate(entries, start=1):
        archive += _entry(path, inode, mode, content, device)
    return bytes(archive + _entry(_TRAILER, 0, 0, b"", (0, 0)))


def directory(path: str) -> tuple[str, int, bytes, tuple[int, int]]:
    return path, stat.S_IFDIR | 0o755, b"", (0, 0)


def file(path: str, content: bytes, mode: int = 0o644) -> tuple[str, int, bytes, tuple[int, int]]:
    return path, stat.S_IFREG | mode, content, (0, 0)


def _entry(path: str, inode: int, mode: int, content: bytes, device: tuple[int, int]) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
