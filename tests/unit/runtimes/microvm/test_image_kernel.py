"""Kernels as distributions ship them: unpacked, named, and their modules put in order."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mas_sandbox.runtimes.microvm.image.kernel import load_order, read_kernel
from mas_sandbox.wire.errors import ErrorCode, SandboxError

VMLINUX = b"\x7fELF" + b"Linux version 6.1.0-9-cloud-amd64 (someone@somewhere)\0" + b"code" * 5000


def bzimage(payload: bytes) -> bytes:
    """(The kernel's Documentation/x86/boot.rst: the fields that we read.)"""
    sectors, offset, version_at = 4, 64, 0x300
    image = bytearray((sectors + 1) * 512 + offset)
    image[0x1F1] = sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, version_at - 0x200)
    struct.pack_into("<II", image, 0x248, offset, len(payload))
    text = b"6.1.0-9-cloud-amd64 (someone@somewhere) #1\0"
    image[version_at : version_at + len(text)] = text
    return bytes(image) + payload + b"more"


def by_program(*command: str) -> Callable[[bytes], bytes]:
    return lambda data: subprocess.run(command, input=data, capture_output=True, check=True).stdout


SIZE = struct.pack("<I", len(VMLINUX))
PAYLOADS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,  # ends with the size itself
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32) + SIZE,
    "bzip2": lambda data: bz2.compress(data) + SIZE,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE) + SIZE,
    "zstd": lambda data: by_program("zstd", "-cq")(data) + SIZE,
    "lz4": lambda data: by_program("lz4", "-lcq")(data) + SIZE,
}


@pytest.mark.parametrize("compression", PAYLOADS)
def test_a_bzimage_is_unpacked(compression: str, tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(PAYLOADS[compression](VMLINUX)))
    kernel = read_kernel(path)
    assert kernel.vmlinux == VMLINUX
    assert kernel.vmlinuz == path.read_bytes()
    assert kernel.version == "6.1.0-9-cloud-amd64"


def test_a_vmlinux_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(VMLINUX)
    kernel = read_kernel(path)
    assert (kernel.vmlinux, kernel.vmlinuz) == (VMLINUX, None)
    assert kernel.version == "6.1.0-9-cloud-amd64"


def test_an_arm_image_serves_as_both(tmp_path: Path) -> None:
    path = tmp_path / "Image"
    path.write_bytes(b"MZ".ljust(0x38, b"\0") + b"ARMd" + b"\0" * 100)
    kernel = read_kernel(path)
    assert kernel.vmlinux == kernel.vmlinuz == path.read_bytes()
    assert kernel.version == "unknown"


WHOLE = bzimage(PAYLOADS["xz"](VMLINUX))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "neither a bzImage"),
        (b"root:x:0:0" * 100, "neither a bzImage"),
        (WHOLE[:0x210], "cannot be uncompressed"),
        (WHOLE[: len(WHOLE) // 2], "cut short"),
        (bzimage(b"\x99" * 100), "cannot be uncompressed"),
        (bzimage(b"\xfd7zXZ\0 and then no such thing" + SIZE), "cannot be uncompressed"),
        (bzimage(lzma.compress(b"no program") + SIZE), "no ELF file"),
        (bzimage(lzma.compress(VMLINUX) + b"\1\0\0\0"), "no ELF file"),
        (
            bzimage(b"\x28\xb5\x2f\xfd and then no such thing" + SIZE),
            "uncompressing failed: `zstd`",
        ),
    ],
)
def test_what_is_no_kernel_is_refused(content: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(content)
    with pytest.raises(SandboxError, match=complaint):
        read_kernel(path)


def test_a_kernel_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="vmlinux cannot be read") as caught:
        read_kernel(tmp_path / "vmlinux")
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def module(depends: str = "", softdep: str = "") -> bytes:
    """(modinfo strings lie in an ELF section, each ended by a NUL.)"""
    info = f"\0license=GPL\0depends={depends}\0"
    return b"\x7fELF" + (info + (f"softdep={softdep}\0" if softdep else "")).encode() + b"code"


def test_modules_load_after_what_they_depend_on(tmp_path: Path) -> None:
    modules = {
        "kernel/a/virtio_pci.ko": module("virtio,virtio_ring,legacy-dev"),
        "kernel/a/virtio.ko": module("virtio_ring"),
        "kernel/b/virtio_ring.ko": module(),
        "kernel/b/legacy_dev.ko.xz": lzma.compress(module(softdep="pre: virtio post: absent")),
        "kernel/c/virtio-rng.ko.gz": gzip.compress(module("virtio")),
        "kernel/c/not-wanted.ko": module(),
    }
    for name, content in modules.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    order = load_order(tmp_path, ("virtio-rng", "virtio_pci", "built-in"))
    assert list(order) == [
        *("virtio_ring.ko", "virtio.ko", "virtio_rng.ko", "legacy_dev.ko", "virtio_pci.ko"),
    ]
    assert order["legacy_dev.ko"].startswith(b"\x7fELF")  # init's insmod reads nothing else


def test_modules_that_depend_on_each_other_end(tmp_path: Path) -> None:
    (tmp_path / "a.ko").write_bytes(module("b"))
    (tmp_path / "b.ko").write_bytes(module("a"))
    assert sorted(load_order(tmp_path, ("a",))) == ["a.ko", "b.ko"]
