"""The file tree of a jail: each step of its description as bubblewrap takes it (bwrap(1)).

What all jails have alike is made once, by the zygote, in a mount namespace of its own that
holds nothing else of the host but /etc and /proc. A jail begins with a copy, which the
kernel locks against change (mount_namespaces(7)), puts its own on top, and leaves the rest.
"""

from __future__ import annotations

import errno
import os

from . import system

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .words import Step

_BASE = "/jail"
_NO_RIGHTS = system.MS_NOSUID | system.MS_NODEV
_RESTRICTED = system.ATTR_NOSUID | system.ATTR_NODEV
_NEEDED = ("/etc", "/proc")
"""Of the host, for who builds a jail. It is gone before anything of the jail runs."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "fd": "/proc/self/fd",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}
_COVERED = ("sys", "sysrq-trigger", "irq", "bus")
"""Of /proc: what is made read-only where anything of it could be written at all."""


def settle(steps: list[Step], descriptors: Mapping[int, int]) -> None:
    """Make what all jails have alike, in this process's own mount namespace, and leave the
    host's tree. `descriptors`: those that the steps name, as they are here. Raises OSError."""
    # Nothing that the host mounts from now on comes in.
    system.mount("", "/", "", system.MS_REC | system.MS_PRIVATE)
    root = "/tmp"  # noqa: S108  # covered in this namespace alone
    system.mount("tmpfs", root, "tmpfs", _NO_RIGHTS, "mode=0755")
    for place in _NEEDED:
        os.mkdir(root + place)
        _bind_alone(place, root + place)
    system.restrict(f"{root}/etc", _RESTRICTED | system.ATTR_RDONLY, recursive=True)
    os.mkdir(root + _BASE)
    system.mount("tmpfs", root + _BASE, "tmpfs", _NO_RIGHTS, "mode=0755")
    _take(steps, descriptors, root + _BASE, _mount_devices)
    # The file systems themselves, and so for every mount of them: jails share them.
    sealed = system.MS_REMOUNT | system.MS_RDONLY | _NO_RIGHTS
    for place in (_BASE, f"{_BASE}/dev"):
        system.mount("tmpfs", root + place, "tmpfs", sealed, "mode=0755")
    os.symlink(f"{_BASE}/usr", f"{root}/usr")  # for what is imported late
    system.enter_root(root)


def build(steps: list[Step], descriptors: Mapping[int, int]) -> None:
    """Add what is one jail's own, in its mount namespace. Raises OSError."""
    system.mount(_BASE, _BASE, "", system.MS_BIND | system.MS_REC)  # what is locked is no root
    _take(steps, descriptors, _BASE, _mount_terminals)


def enter() -> None:
    """Make it the root."""
    system.enter_root(_BASE)


def _take(
    steps: list[Step],
    descriptors: Mapping[int, int],
    base: str,
    devices: Callable[[str], None],
) -> None:
    for word, (*sources, path), mode, size in steps:
        target = base if path == "/" else base + path
        match word:
            case "--dir":
                _make_directory(target)
            case "--ro-bind":
                _bind(sources[0], target)
            case "--ro-bind-try":
                if os.path.exists(sources[0]):
                    _bind(sources[0], target)
            case "--symlink":
                _make_directory(os.path.dirname(target))
                os.symlink(sources[0], target)
            case "--file":
                _write(descriptors[int(sources[0])], target, 0o666 if mode < 0 else mode)
            case "--tmpfs":
                _mount_memory(target, 0o755 if mode < 0 else mode, size)
            case "--proc":
                _mount_proc(target)
            case "--dev":
                devices(target)
            case "--remount-ro":
                system.restrict(target, system.ATTR_RDONLY, recursive=False)
            case _:
                raise AssertionError(word)  # `words.read` lets no other through


def _bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        _make_directory(target)
    else:
        _make_directory(os.path.dirname(target))
        _make_file(target)
    system.mount(source, target, "", system.MS_BIND | system.MS_REC)
    system.restrict(target, _RESTRICTED | system.ATTR_RDONLY, recursive=True)


def _bind_alone(source: str, target: str) -> None:
    """Without what is mounted beneath it, unless the kernel has locked that to it."""
    try:
        system.mount(source, target, "", system.MS_BIND)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        system.mount(source, target, "", system.MS_BIND | system.MS_REC)


def _write(source: int, target: str, mode: int) -> None:
    _make_directory(os.path.dirname(target))
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    written = os.open(target, flags, mode)
    try:
        while os.sendfile(written, source, None, 1 << 30):
            pass
    finally:
        os.close(written)


def _mount_memory(target: str, mode: int, size: int) -> None:
    _make_directory(target)
    options = f"mode={mode:o}" + (f",size={size}" if size >= 0 else "")
    system.mount("tmpfs", target, "tmpfs", _NO_RIGHTS, options)


def _mount_proc(target: str) -> None:
    _make_directory(target)
    system.mount("proc", target, "proc", _NO_RIGHTS | system.MS_NOEXEC)
    for name in _COVERED:
        place = f"{target}/{name}"
        if os.access(place, os.W_OK):
            system.mount(place, place, "", system.MS_BIND | system.MS_REC)
            system.restrict(place, _RESTRICTED | system.ATTR_RDONLY, recursive=True)


def _mount_devices(target: str) -> None:
    """All of them but terminals, which are each jail's own."""
    _mount_memory(target, 0o755, -1)
    for name in _DEVICES:
        place = f"{target}/{name}"
        _make_file(place)
        system.mount(f"/dev/{name}", place, "", system.MS_BIND)
        system.restrict(place, system.ATTR_NOSUID, recursive=False)
    os.mkdir(f"{target}/shm", 0o755)
    os.mkdir(f"{target}/pts", 0o755)
    for name, leads_to in _DEVICE_LINKS.items():
        os.symlink(leads_to, f"{target}/{name}")


def _mount_terminals(target: str) -> None:
    options = "newinstance,ptmxmode=0666,mode=620"
    flags = system.MS_NOSUID | system.MS_NOEXEC
    system.mount("devpts", f"{target}/pts", "devpts", flags, options)


def _make_file(path: str) -> None:
    if not os.path.lexists(path):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))


def _make_directory(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_directory(os.path.dirname(path))
        os.mkdir(path, 0o755)
