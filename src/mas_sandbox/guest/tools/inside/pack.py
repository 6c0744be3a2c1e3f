"""sandbox.pack: a directory, or a file, as a tar archive."""

from __future__ import annotations

import errno
import os
import stat

from mas_sandbox.guest.changes import regular, write_all
from mas_sandbox.guest.tools import ToolFailure
from mas_sandbox.guest.tools.arguments import only, text
from mas_sandbox.guest.tools.tree import MAX_DEPTH, Budget, Found, walk

from . import PIECE
from .entry import text_of
from .tar import BLOCK, DIRECTORY, FILE, SYMLINK, Member, encode, padding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files

MAX_ENTRIES = 1_000_000
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC
# It was a file when it was seen, and is another thing now, or nothing.
_CHANGED = (errno.ENOENT, errno.ENXIO, errno.ELOOP, errno.EISDIR, errno.ENOTDIR)
_END = bytes(2 * BLOCK)


def pack(args: dict[str, Any], files: Files) -> dict[str, int]:
    """{path} -> a pax archive on standard output; {entries, bytes, skipped}.

    Names are relative to a directory, and a file's own; sorted, so that one tree gives one
    archive; owners are left out. Symbolic links stay links; `skipped` counts FIFOs, sockets,
    devices and what went away meanwhile. A file that grows or shrinks is cut or filled up
    with zeros at the size it had. Raises ToolFailure for what cannot be read.
    """
    only(args, "path")
    path = text(args, "path")
    packing = _Packing()
    descriptor = files.open_any(path)
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            _pack_tree(packing, descriptor)
        else:
            packing.add_file(os.fsencode(files.absolute(path).rpartition("/")[2]), descriptor)
    finally:
        os.close(descriptor)
    return packing.end()


def _pack_tree(packing: _Packing, directory: int) -> None:
    budget = Budget(MAX_ENTRIES, float("inf"))
    for found in walk(directory, _everything, None, budget):
        try:
            packing.add(found)
        except OSError as error:
            if error.errno not in _CHANGED:
                reason = os.strerror(error.errno or 0)
                message = f"{text_of(found.path)!r}: {reason}; it cannot be packed"
                raise ToolFailure(message, reason="permission") from error
            packing.skipped += 1
    if budget.exhausted:
        raise ToolFailure(
            f"more than {MAX_ENTRIES} entries, or {MAX_DEPTH} levels; pack a part of it",
            reason="too_large",
        )


def _everything(state: None, name: str) -> tuple[bool, Any]:
    return True, True


class _Packing:
    def __init__(self) -> None:
        self.skipped = 0
        self._entries = 0
        self._bytes = 0
        self._held = bytearray()

    def add(self, found: Found) -> None:
        """Raises OSError."""
        entry, path = found.entry, os.fsencode(found.path)
        if entry.is_symlink():
            target = os.fsencode(os.readlink(entry.name, dir_fd=found.directory))
            self._add(SYMLINK, path, entry.stat(follow_symlinks=False), 0, target)
        elif entry.is_dir(follow_symlinks=False):
            # The walk would pass over one that it cannot list.
            os.close(os.open(entry.name, _OPEN | os.O_DIRECTORY, dir_fd=found.directory))
            self._add(DIRECTORY, path + b"/", entry.stat(follow_symlinks=False), 0)
        elif entry.is_file(follow_symlinks=False):
            descriptor = regular(os.open(entry.name, _OPEN, dir_fd=found.directory))
            try:
                self.add_file(path, descriptor)
            finally:
                os.close(descriptor)
        else:
            self.skipped += 1

    def add_file(self, name: bytes, descriptor: int) -> None:
        status = os.fstat(descriptor)
        left = status.st_size
        self._add(FILE, name, status, left)
        self._bytes += left
        ended = False
        while left:
            piece = b"" if ended else os.read(descriptor, min(PIECE, left))
            ended = not piece
            piece = piece or bytes(min(PIECE, left))
            self._write(piece)
            left -= len(piece)
        self._write(bytes(padding(status.st_size)))

    def end(self) -> dict[str, int]:
        self._write(_END)
        write_all(1, self._held)
        return {"entries": self._entries, "bytes": self._bytes, "skipped": self.skipped}

    def _add(
        self, kind: bytes, name: bytes, status: os.stat_result, size: int, target: bytes = b""
    ) -> None:
        mode = status.st_mode & 0o777
        mtime = int(status.st_mtime)
        self._write(encode(Member(kind, name, target=target, mode=mode, size=size, mtime=mtime)))
        self._entries += 1

    def _write(self, data: bytes) -> None:
        """By pieces that are worth a system call each."""
        self._held += data
        if len(self._held) >= PIECE:
            write_all(1, self._held)
            self._held.clear()
