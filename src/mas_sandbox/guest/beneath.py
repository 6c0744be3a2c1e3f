"""Open a path beneath a directory descriptor, whatever the tree does meanwhile.

`openat2` asks the kernel (openat2(2), Linux 5.6): resolution that would leave the
root fails, also when a component is swapped for a symbolic link half-way.
`walk` does the same by hand, one O_NOFOLLOW open per component, for systems
without the call or whose seccomp filter refuses it. Both follow symbolic links and
`..` that stay beneath the root and refuse absolute links.
"""

from __future__ import annotations

import errno
import os
import sys

from . import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Opener(Protocol):
        """Returns a descriptor. Raises OSError: EXDEV where `path` leads outside `root`,
        ELOOP for too many links (or for any, unless `symlinks`), else what open(2) gives.

        `path` is relative; O_CLOEXEC is always added; `mode` goes with O_CREAT.
        """

        def __call__(
            self, root: int, path: str, flags: int, mode: int = 0, *, symlinks: bool = True
        ) -> int: ...


DIRECTORY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY
"""Flags of a directory that is only stepped through: needs no permission to list it."""

_SYS_OPENAT2 = 437  # the same number on every architecture but alpha
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_MAX_LINKS = 40  # the kernel's own bound, path_resolution(7)
_MAX_RACES = 128


def openat2(root: int, path: str, flags: int, mode: int = 0, *, symlinks: bool = True) -> int:
    """An `Opener` by openat2(2). Raises OSError ENOSYS or EPERM where that is missing."""
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS
    if not symlinks:
        resolve |= _RESOLVE_NO_SYMLINKS
    # struct open_how: three u64
    words = (flags | os.O_CLOEXEC, mode, resolve)
    how = b"".join(word.to_bytes(8, sys.byteorder) for word in words)
    encoded = os.fsencode(path)
    for _ in range(_MAX_RACES):
        try:
            return libc.syscall(_SYS_OPENAT2, root, encoded, how, len(how))
        except (BlockingIOError, InterruptedError):
            continue  # a rename elsewhere raced with `..`
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def walk(root: int, path: str, flags: int, mode: int = 0, *, symlinks: bool = True) -> int:
    """An `Opener` by hand. `..` steps back along the descriptors it came through, so a
    directory that is moved away meanwhile cannot lead outside."""
    pending = _components(path)
    trail = [os.dup(root)]
    links = 0
    try:
        while pending:
            name = pending.pop()
            if name == "." and pending:
                continue  # of a link's target; `..` behind it steps back from what is before it
            if name == "..":
                if len(trail) == 1:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                os.close(trail.pop())
                continue
            target = link_target(trail[-1], name)
            if target is not None:
                links += 1
                if not symlinks or links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                pending += _components(target)
            elif pending:
                trail.append(_open_plain(trail[-1], name, DIRECTORY))
            else:
                return _open_plain(trail[-1], name, flags, mode)
        return _open_plain(trail[-1], ".", flags, mode)
    finally:
        for descriptor in trail:
            os.close(descriptor)


def link_target(directory: int, name: str) -> str | None:
    """What the symbolic link `name` holds, None where it is something else or absent."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return None
        raise


def _open_plain(directory: int, name: str, flags: int, mode: int = 0) -> int:
    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=directory)


def _components(path: str) -> list[str]:
    """Last first. A trailing slash asks for a directory, as the kernel has it."""
    if not path:
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    if path.startswith("/"):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    names = [name for name in path.split("/") if name not in ("", ".")]
    if names and path.endswith(("/", "/.")):
        names.append(".")
    return names[::-1]


def _works() -> bool:
    if sys.platform != "linux":
        return False
    root = os.open("/", DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(openat2(root, ".", DIRECTORY))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


open_beneath: Opener = openat2 if _works() else walk
