"""The initramfs: what the kernel will unpack, and a first process that says what is wrong."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

from mas_sandbox.runtimes.microvm.image import cpio
from mas_sandbox.runtimes.microvm.image.initramfs import pack_initramfs


def unpack(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Path -> mode and content, read by the words of the kernel's buffer-format.rst."""
    found = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        start = at + -(-(110 + name_size) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[start : start + size])
        at = start + -(-size // 4) * 4


def test_an_archive_holds_what_it_was_given() -> None:
    entries = [cpio.directory("lib"), cpio.file("lib/x", b"12345", 0o755)]
    assert unpack(cpio.pack(iter(entries))) == {
        "lib": (stat.S_IFDIR | 0o755, b""),
        "lib/x": (stat.S_IFREG | 0o755, b"12345"),
    }


def test_equal_entries_make_equal_archives(tmp_path: Path) -> None:
    (tmp_path / "virtio_blk.ko").write_bytes(b"\0depends=\0")
    assert pack_initramfs(b"busybox", tmp_path) == pack_initramfs(b"busybox", tmp_path)


def test_the_kernel_finds_its_console_and_init(tmp_path: Path) -> None:
    (tmp_path / "virtio_blk.ko").write_bytes(b"\0depends=\0")
    found = unpack(pack_initramfs(b"busybox", tmp_path))
    assert stat.S_ISCHR(found["dev/console"][0])
    assert found["init"][0] == stat.S_IFREG | 0o755
    assert found["init"][1].startswith(b"#!/bin/busybox sh\n")
    assert found["bin/busybox"] == (stat.S_IFREG | 0o755, b"busybox")
    assert found["lib/modules/base"][1] == b"virtio_blk.ko\n"
    assert found["lib/modules/virtio_blk.ko"][1] == b"\0depends=\0"
    assert found["lib/modules/vsock"][1] == b""


def test_a_kernel_without_modules_needs_none() -> None:
    assert not [name for name in unpack(pack_initramfs(b"", None)) if "modules/" in name]


def test_init_is_a_script_that_a_shell_can_read(tmp_path: Path) -> None:
    script = tmp_path / "init"
    script.write_bytes(unpack(pack_initramfs(b"", None))["init"][1])
    shell = shutil.which("dash") or "sh"
    assert subprocess.run([shell, "-n", str(script)], check=False).returncode == 0
