"""Kernels: what is in a distribution's package, and the uncompressed kernel in a bzImage."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .failure import bad_input, require, run

MODULES = {
    "base": (
        *("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_console", "virtio_balloon"),
        *("virtio-rng", "ext4", "overlay", "fuse"),
    ),
    "vsock": ("vmw_vsock_virtio_transport",),
    "network": ("virtio_net",),
}
"""What the guest's init loads, and when: always, for a vsock channel, for a network device."""

_ELF = b"\x7fELF"
_BOOT_MAGIC = b"HdrS"  # at 0x202 of a bzImage: the kernel's Documentation/x86/boot.rst
_ARM64_MAGIC = b"ARMd"  # at 0x38 of an Image: the kernel's Documentation/arm64/booting.rst
_MAX_KERNEL = 512 * 1024 * 1024
_DEPENDS = re.compile(rb"\0(?:depends|softdep)=([^\0]*)\0")


@dataclass(frozen=True, slots=True)
class Kernel:
    """`vmlinux`: uncompressed, as Firecracker takes it; `vmlinuz`: as it was shipped.

    One of the two may be None. `modules`: a directory like /lib/modules/VERSION, or
    None for a kernel that has what it needs built in.
    """

    version: str
    vmlinux: bytes | None
    vmlinuz: bytes | None
    modules: Path | None


def read_kernel(path: Path, modules: Path | None = None) -> Kernel:
    """Raises SandboxError `invalid_request` for a file that is no kernel."""
    try:
        if path.stat().st_size > _MAX_KERNEL:
            raise bad_input(f"the kernel {path} is larger than {_MAX_KERNEL >> 20} MiB")
        image = path.read_bytes()
    except OSError as error:
        raise bad_input(f"the kernel {path} cannot be read: {error}") from error
    if modules is not None and not modules.is_dir():
        raise bad_input(f"the modules {modules} are no directory like /lib/modules/VERSION")
    if image[:4] == _ELF:
        return Kernel(_version_within(image), image, None, modules)
    if image[0x38:0x3C] == _ARM64_MAGIC:
        return Kernel(_version_within(image), image, image, modules)
    if image[0x202:0x206] != _BOOT_MAGIC:
        raise bad_input(
            f"the kernel {path} is neither a bzImage, nor an uncompressed vmlinux (ELF), nor an "
            "arm64 Image; give the file from /boot or a kernel's build directory"
        )
    return Kernel(_bzimage_version(image), extract_vmlinux(image, path), image, modules)


def extract_vmlinux(bzimage: bytes, path: Path) -> bytes:
    """The ELF file that a bzImage carries.

    (Boot protocol 2.08 and later: `payload_offset` and `payload_length` count from the
    protected-mode code; the last four bytes hold the size once uncompressed.)
    Raises SandboxError `invalid_request`.
    """
    try:
        sectors = bzimage[0x1F1] or 4
        offset, length = struct.unpack_from("<II", bzimage, 0x248)
        start = (sectors + 1) * 512 + offset
        payload = bzimage[start : start + length]
        if len(payload) != length:
            raise ValueError("it was cut short")
        (size,) = struct.unpack("<I", payload[-4:])
        if size > _MAX_KERNEL:
            raise ValueError(f"it would be larger than {_MAX_KERNEL >> 20} MiB")
        vmlinux = _decompress(payload)
        if vmlinux[:4] != _ELF or len(vmlinux) != size:
            raise ValueError("what it carries is no ELF file")
    except (ValueError, OSError, EOFError, struct.error, lzma.LZMAError, zlib.error) as error:
        raise bad_input(f"the kernel {path} cannot be uncompressed: {error}") from error
    return vmlinux


def _decompress(payload: bytes) -> bytes:
    """Its last four bytes are no part of the compressed stream but for gzip, which ends so."""
    body = payload[:-4]
    formats: dict[bytes, Callable[[], bytes]] = {
        b"\x1f\x8b": lambda: gzip.decompress(payload),
        b"\xfd7zXZ\0": lambda: lzma.decompress(body),
        b"BZh": lambda: bz2.decompress(body),
        b"]\0\0": lambda: lzma.LZMADecompressor().decompress(payload, _MAX_KERNEL),
        b"\x28\xb5\x2f\xfd": lambda: _with_program("zstd", body),
        b"\x02\x21\x4c\x18": lambda: _with_program("lz4", body),
    }
    for magic, decompress in formats.items():
        if payload.startswith(magic):
            return decompress()
    raise ValueError(f"its compression is unknown ({payload[:4].hex()})")


def _with_program(name: str, data: bytes) -> bytes:
    return run("uncompressing", [require(name, name), "-dcq"], stdin=data).stdout


def _bzimage_version(image: bytes) -> str:
    (pointer,) = struct.unpack_from("<H", image, 0x20E)
    text = image[pointer + 0x200 :].split(b"\0", 1)[0] if pointer else b""
    return text.split(b" ", 1)[0].decode("ascii", "replace")[:100] or "unknown"


def _version_within(image: bytes) -> str:
    found = re.search(rb"Linux version ([0-9][!-~]{0,99})", image)
    return found[1].decode() if found else "unknown"


def load_order(modules: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """File name -> content of the wanted modules and all they depend on, each after those.

    Read from the modules themselves: a package holds no modules.dep before its
    installation. What a kernel has built in is not there, and left out.
    """
    files = {_plain(path): path for path in sorted(modules.rglob("*.ko*"))}
    order: dict[str, bytes] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        path = files.get(name.replace("-", "_"))
        if path is None or name in above:
            return
        content = _module(path)
        for listed in _DEPENDS.findall(content):
            for dependency in re.split(rb"[ ,]+", listed):
                if dependency and not dependency.endswith(b":"):  # "pre:" of a softdep
                    visit(dependency.decode(), (*above, name))
        # Named as /sys/module will name it.
        order.setdefault(f"{_plain(path)}.ko", content)

    for name in wanted:
        visit(name, ())
    return order


def _plain(path: Path) -> str:
    return path.name.split(".ko", 1)[0].replace("-", "_")


def _module(path: Path) -> bytes:
    content = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(content)
        case ".gz":
            return gzip.decompress(content)
        case ".zst":
            return _with_program("zstd", content)
        case _:
            return content
