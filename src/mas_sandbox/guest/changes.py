"""Changes to what a directory holds, each by the directory's descriptor and one name."""

from __future__ import annotations

import errno
import os
import stat

from . import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_PLAIN = os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAIN
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | _PLAIN
_NAMELESS = getattr(os, "O_TMPFILE", 0)
_RENAME_NOREPLACE = 1
# renameat2(2): where the file system or the kernel does not know of the flag.
_NO_FLAGS = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def regular(descriptor: int, or_directory: bool = False) -> int:
    """The same descriptor when it is a regular file. Closes it and raises OSError
    otherwise: EISDIR for a directory, ENXIO for a FIFO, a socket or a device."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or (or_directory and stat.S_ISDIR(mode)):
        return descriptor
    os.close(descriptor)
    raise _not_regular(mode)


def _not_regular(mode: int) -> OSError:
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.ENXIO
    return OSError(number, os.strerror(number))


def replace(parent: int, name: str, pieces: Iterable[bytes], mode: int | None) -> os.stat_result:
    """Write a whole file, which appears at once and complete.

    `mode`: its permissions; None keeps those of the file that was there. Where the file
    system knows files without a name, one that is killed meanwhile leaves nothing behind.
    """
    kept = _permissions(parent, name)
    mode = kept if mode is None else mode
    temporary = f".{os.urandom(8).hex()}.tmp"
    descriptor = _open_nameless(parent)
    named = descriptor < 0
    if named:
        descriptor = os.open(temporary, _NEW, 0o666, dir_fd=parent)
    try:
        with os.fdopen(descriptor, "wb", buffering=0):
            for piece in pieces:
                write_all(descriptor, piece)
            if mode is not None:
                os.fchmod(descriptor, mode)
            if not named:
                # A new file gets its name at once: who watches sees no other.
                if kept is None and _link(descriptor, parent, name):
                    return os.fstat(descriptor)
                named = _link(descriptor, parent, temporary)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            return os.fstat(descriptor)
    except BaseException:
        if named:
            os.unlink(temporary, dir_fd=parent)
        raise


def write_all(descriptor: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _open_nameless(parent: int) -> int:
    """open(2), O_TMPFILE; -1 where there is none, or no /proc to give it a name through."""
    try:
        descriptor = os.open(".", os.O_WRONLY | _NAMELESS, 0o666, dir_fd=parent)
    except OSError:
        return -1  # if for a reason that matters, a file with a name tells
    if os.path.exists(_seen_as(descriptor)):
        return descriptor
    os.close(descriptor)
    return -1


def _link(descriptor: int, parent: int, name: str) -> bool:
    """Give a nameless file this name, unless another has it."""
    try:
        os.link(_seen_as(descriptor), name, dst_dir_fd=parent, follow_symlinks=True)
    except FileExistsError:
        return False
    return True


def _seen_as(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _permissions(parent: int, name: str) -> int | None:
    """Those of the regular file `name`, None where there is nothing."""
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise _not_regular(mode)
    return mode & 0o777  # never setuid: the content is new


def move(source: int, name: str, target: int, to: str, overwrite: bool) -> None:
    """rename(2). Unless `overwrite`, raises FileExistsError where there is something."""
    if overwrite:
        os.rename(name, to, src_dir_fd=source, dst_dir_fd=target)
        return
    try:
        names = os.fsencode(name), os.fsencode(to)
        libc.call("renameat2", source, names[0], target, names[1], _RENAME_NOREPLACE)
    except OSError as error:
        if error.errno not in _NO_FLAGS:
            raise
        _move_if_free(source, name, target, to)


def _move_if_free(source: int, name: str, target: int, to: str) -> None:
    """In two steps: what comes between them is lost."""
    try:
        os.stat(to, dir_fd=target, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(name, to, src_dir_fd=source, dst_dir_fd=target)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def remove(parent: int, name: str, recursive: bool) -> None:
    mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    if not stat.S_ISDIR(mode):
        os.unlink(name, dir_fd=parent)
        return
    if recursive:
        _empty(parent, name)
    os.rmdir(name, dir_fd=parent)


def _empty(parent: int, name: str) -> None:
    """Delete all that a directory holds, however deep, with two descriptors: the way back
    up is `..`, and it must be the very directory the way down came from."""
    current = os.open(name, _DIRECTORY, dir_fd=parent)
    trail: list[tuple[str, tuple[int, int]]] = []
    try:
        while True:
            child = _unlink_files(current)
            if child is not None:
                trail.append((child, _identity(current)))
                current = _step(current, child)
            elif trail:
                child, above = trail.pop()
                current = _step(current, "..")
                if _identity(current) != above:
                    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
                os.rmdir(child, dir_fd=current)
            else:
                return
    finally:
        os.close(current)


def _step(current: int, name: str) -> int:
    following = os.open(name, _DIRECTORY, dir_fd=current)
    os.close(current)
    return following


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _unlink_files(directory: int) -> str | None:
    """Delete what is no directory. Returns the name of a directory in the way, None when
    nothing is left; entries may be missed while others go, so a pass must see none."""
    seen = True
    while seen:
        seen = False
        with os.scandir(directory) as entries:
            for entry in entries:
                seen = True
                if entry.is_dir(follow_symlinks=False):
                    return entry.name
                os.unlink(entry.name, dir_fd=directory)
    return None
