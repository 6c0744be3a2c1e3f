"""The initramfs: busybox, our init, and the kernel modules in the order they load."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from . import cpio
from .kernel import MODULES, load_order

_INIT = Path(__file__).with_name("init.sh")
_DIRECTORIES = (*("bin", "dev", "lib", "lib/modules", "lower", "proc", "root", "sys", "upper"),)
_CONSOLE = ("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1))


def pack_initramfs(busybox: bytes, modules: Path | None) -> bytes:
    """Not compressed: a guest under emulation would pay more for that than the host reads.

    `busybox`: a static program. Raises SandboxError; OSError.
    """
    return cpio.pack(_entries(busybox, modules))


def _entries(
    busybox: bytes, modules: Path | None
) -> Iterator[tuple[str, int, bytes, tuple[int, int]]]:
    yield from map(cpio.directory, _DIRECTORIES)
    yield _CONSOLE
    yield cpio.file("bin/busybox", busybox, 0o755)
    yield cpio.file("init", _INIT.read_bytes(), 0o755)
    if modules is None:
        return
    packed: set[str] = set()
    for list_name, wanted in MODULES.items():
        order = load_order(modules, wanted)
        text = "".join(f"{name}\n" for name in order)
        yield cpio.file(f"lib/modules/{list_name}", text.encode())
        for name in sorted(order.keys() - packed):
            yield cpio.file(f"lib/modules/{name}", order[name])
        packed |= order.keys()
