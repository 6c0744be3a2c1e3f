"""The system calls that host directories need and `os` does not offer.

Numbers are the same on every architecture but alpha where none is said. Flags: the
kernel's include/uapi/linux/{mount,openat2,fcntl,sched}.h.
"""

from __future__ import annotations

import errno
import os
import struct
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes

_OPEN_TREE, _MOVE_MOUNT, _OPENAT2, _MOUNT_SETATTR = 428, 429, 437, 442
_SETGROUPS = {"x86_64": 116, "aarch64": 159}
_GETDENTS64 = {"x86_64": 217, "aarch64": 61}
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS = 0x01, 0x02
_RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x04, 0x08
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_IDMAP = 0x1, 0x2, 0x4, 0x100000
_CLONE_FS, _CLONE_NEWNS, _CLONE_NEWUSER = 0x200, 0x20000, 0x10000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
_CAPABILITY_VERSION_3 = 0x20080522
O_PATH: int = getattr(os, "O_PATH", 0)
_MAX_RACES = 128


def open_without_links(path: str, flags: int) -> int:
    """Open an absolute path no part of which is a symbolic link, openat2(2). Raises OSError."""
    resolve = _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
    return _openat2(_AT_FDCWD, os.fsencode(path), flags, resolve)


def open_beneath(root: int, path: bytes, flags: int) -> int:
    """Open a relative path without leaving `root`, its file system, or following a link.

    Raises OSError: ELOOP for a link on the way, EXDEV for what leads outside.
    """
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS
    return _openat2(root, path, flags, resolve | _RESOLVE_NO_XDEV)


def _openat2(root: int, path: bytes, flags: int, resolve: int) -> int:
    # struct open_how: flags, mode, resolve
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    for _ in range(_MAX_RACES):
        try:
            return _call(_OPENAT2, root, path, how, len(how))
        except (BlockingIOError, InterruptedError):
            continue  # a rename elsewhere raced with the walk
    raise BlockingIOError("the tree is renamed faster than it can be walked")


def clone_mount(directory: int) -> int:
    """A detached mount of an open directory, without what is mounted beneath it."""
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_EMPTY_PATH
    return _call(_OPEN_TREE, directory, b"", flags)


def restrict_mount(mount: int, *, writable: bool, idmap: int | None) -> None:
    """No setuid, no devices, and read-only unless `writable`; `idmap`: a user namespace that
    owners are mapped through, mount_setattr(2). Raises OSError, EINVAL where the file
    system cannot map owners."""
    attributes = _ATTR_NOSUID | _ATTR_NODEV | (0 if writable else _ATTR_RDONLY)
    if idmap is not None:
        attributes |= _ATTR_IDMAP
    packed = struct.pack("=QQQQ", attributes, 0, 0, 0 if idmap is None else idmap)
    _call(_MOUNT_SETATTR, mount, b"", _AT_EMPTY_PATH, packed, len(packed))


def attach_mount(mount: int, path: str) -> None:
    """Put a detached mount on a directory of this mount namespace."""
    _call(_MOVE_MOUNT, mount, b"", _AT_FDCWD, os.fsencode(path), _MOVE_MOUNT_F_EMPTY_PATH)


def own_mount_namespace() -> None:
    """Leave the mount namespace for a copy from which nothing comes back."""
    _checked(_libc().unshare(_CLONE_NEWNS))
    _checked(_libc().mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None))


def own_user_namespace() -> None:
    """For a process of one thread."""
    _checked(_libc().unshare(_CLONE_NEWUSER))


def mount_small_tmpfs(path: str) -> None:
    """Anybody may step through it, nobody but root write to it."""
    flags = _MS_NOSUID | _MS_NODEV | _MS_NOEXEC
    options = b"mode=755,size=64k"
    _checked(_libc().mount(b"mas-sandbox", os.fsencode(path), b"tmpfs", flags, options))


def own_umask() -> None:
    """Let this thread, and no other, make files with exactly the mode it asks for."""
    _checked(_libc().unshare(_CLONE_FS))
    os.umask(0)


def become(user: int, group: int) -> None:
    """Let this thread, and no other, touch files as `user` and `group` for ever after.

    Owners, groups and capabilities belong to threads in Linux (credentials(7)); it is
    the C library that makes a process of them, for calls other than these.
    """
    _call(_number(_SETGROUPS), 0, None)
    _libc().setfsgid(group)
    _libc().setfsuid(user)
    _checked(_libc().capset(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), bytes(24)))
    if (_libc().setfsuid(-1), _libc().setfsgid(-1)) != (user, group):  # the one way to ask
        raise PermissionError("this thread could not become the directory's owner")


def read_directory(directory: int, size: int) -> bytes:
    """The next entries as getdents64(2) has them, empty at the end."""
    import ctypes

    buffer = ctypes.create_string_buffer(size)
    count = _libc().syscall(
        ctypes.c_long(_number(_GETDENTS64)), directory, buffer, ctypes.c_size_t(size)
    )
    return buffer.raw[: _checked(count)]


def rename(old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int) -> None:
    """renameat2(2): RENAME_NOREPLACE is 1, RENAME_EXCHANGE 2."""
    _checked(_libc().renameat2(old_parent, old, new_parent, new, flags))


def allocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2)."""
    import ctypes

    where = ctypes.c_int64(offset), ctypes.c_int64(length)
    _checked(_libc().fallocate(descriptor, mode, *where))


def warm() -> None:
    """Load what the calls above need: nothing may be imported between fork and exec."""
    _libc()


@cache
def _libc() -> ctypes.CDLL:
    import ctypes  # 4 ms at start-up that most daemons never need

    return ctypes.CDLL(None, use_errno=True)


def _number(of: dict[str, int]) -> int:
    machine = os.uname().machine
    if machine not in of:
        raise OSError(errno.ENOSYS, f"no system call numbers for {machine}")
    return of[machine]


def _call(number: int, *arguments: int | bytes | None) -> int:
    import ctypes

    wide = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return _checked(_libc().syscall(ctypes.c_long(number), *wide))


def _checked(result: int) -> int:
    import ctypes

    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
