"""Change a mounted file system without a word about its other options.

By the mount API of Linux 5.2 (fspick(2), fsconfig(2)), because a remount by mount(2)
resets every flag that it does not repeat.
"""

from __future__ import annotations

import os

from . import libc

_FSCONFIG, _FSPICK = 431, 433  # the same on every architecture but alpha
_AT_FDCWD = -100
_FSPICK_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _RECONFIGURE = 0, 1, 7  # enum fsconfig_command


def points(kind: str) -> list[str]:
    """Where writable file systems of a kind are mounted, proc_pid_mountinfo(5)."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as listing:
        for line in listing:
            mount, _, system = line.partition(" - ")
            point, options = mount.split(" ")[4:6]
            # A blank in a mount point is written as an escape; nobody mounts scratch there.
            if system.split(" ")[0] == kind and options.startswith("rw") and "\\" not in point:
                found.append(point)
    return found


def set_size(point: str, size: int) -> None:
    """Bytes that a tmpfs may hold. Raises OSError, EINVAL where it holds more."""
    _reconfigure(point, _SET_STRING, "size", str(size).encode())


def set_flag(point: str, flag: str) -> bool:
    """Whether the kernel knows the flag."""
    try:
        _reconfigure(point, _SET_FLAG, flag, 0)
    except OSError:
        return False
    return True


def _reconfigure(point: str, command: int, name: str, value: bytes | int) -> None:
    picked = libc.syscall(_FSPICK, _AT_FDCWD, os.fsencode(point), _FSPICK_CLOEXEC)
    try:
        libc.syscall(_FSCONFIG, picked, command, name.encode(), value, 0)
        libc.syscall(_FSCONFIG, picked, _RECONFIGURE, 0, 0, 0)
    finally:
        os.close(picked)
