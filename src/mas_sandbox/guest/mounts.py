"""Change a mounted file system without a word about its other options.

By the mount API of Linux 5.2 (fspick(2), fsconfig(2)), because a remount by mount(2)
resets every flag that it does not repeat.
"""

from __future__ import annotations

import os

from . import libc

# The same on every architecture but alpha.
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _FSPICK = 429, 430, 431, 432, 433
_AT_FDCWD = -100
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_RDONLY, _NOSUID, _NODEV = 1, 2, 4  # MOUNT_ATTR_*
_FSPICK_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _CREATE, _RECONFIGURE = 0, 1, 6, 7  # enum fsconfig_command


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


def add_files(point: str, files: int) -> None:
    """Let a tmpfs hold so many files and directories beside those it has. Raises OSError."""
    now = os.statvfs(point)
    limit = now.f_files - now.f_ffree + files
    _reconfigure(point, _SET_STRING, "nr_inodes", str(limit).encode())


def set_flag(point: str, flag: str) -> bool:
    """Whether the kernel knows the flag."""
    try:
        _reconfigure(point, _SET_FLAG, flag, 0)
    except OSError:
        return False
    return True


def mount_fuse(device: int, point: str, *, writable: bool) -> None:
    """Mount what is served through an open /dev/fuse. Raises OSError.

    Everybody may use it, and this kernel decides by owner and mode who may do what.
    """
    system = libc.syscall(_FSOPEN, b"fuse", _FSOPEN_CLOEXEC)
    try:
        options = {
            "source": "host",
            "fd": str(device),
            "rootmode": "40000",
            "user_id": "0",
            "group_id": "0",
        }
        for name, value in options.items():
            libc.syscall(_FSCONFIG, system, _SET_STRING, name.encode(), value.encode(), 0)
        for name in ("allow_other", "default_permissions"):
            libc.syscall(_FSCONFIG, system, _SET_FLAG, name.encode(), 0, 0)
        libc.syscall(_FSCONFIG, system, _CREATE, 0, 0, 0)
        attributes = _NOSUID | _NODEV | (0 if writable else _RDONLY)
        mounted = libc.syscall(_FSMOUNT, system, _FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(system)
    try:
        where = os.fsencode(point)
        libc.syscall(_MOVE_MOUNT, mounted, b"", _AT_FDCWD, where, _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(mounted)


def _reconfigure(point: str, command: int, name: str, value: bytes | int) -> None:
    picked = libc.syscall(_FSPICK, _AT_FDCWD, os.fsencode(point), _FSPICK_CLOEXEC)
    try:
        libc.syscall(_FSCONFIG, picked, command, name.encode(), value, 0)
        libc.syscall(_FSCONFIG, picked, _RECONFIGURE, 0, 0, 0)
    finally:
        os.close(picked)
