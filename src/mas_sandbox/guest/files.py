"""All file access of the file tools: beneath the roots a call is granted, by descriptor.

A path is absolute as the caller sees the sandbox (`/workspace/...`, or beneath another
granted path) or relative to `/workspace`. It is matched with a grant by its text, but
what decides is the open: it is resolved under the grant's own directory descriptor, so
a path that leads elsewhere fails however it was spelt and whatever is renamed meanwhile.

Every failure is a ToolFailure: `invalid_request` for a path that is malformed, not
granted or leads outside; `tool_failed` for what the file system answers.
"""

from __future__ import annotations

import errno
import os
import stat

from mas_sandbox.wire.isolation import WORKSPACE

from .place import Place, shown
from .tools import ToolFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from io import BufferedReader

    from .beneath import Opener

_MAX_PATH = 4095  # bytes: PATH_MAX less its NUL
# O_NONBLOCK: opening a FIFO never waits for its other end.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_PLAIN = os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | _PLAIN


class Files:
    """What one call may touch. Opens nothing until it is used.

    `grants`: (absolute path, "ro" or "rw"); the longest that matches decides, so a
    read-only path inside a read-write one stays read-only. `workspace`: the directory
    that is `/workspace` here. `opener`: `beneath.open_beneath` unless given.
    """

    def __init__(
        self, grants: list[tuple[str, str]], workspace: str, opener: Opener | None = None
    ) -> None:
        self._grants = [(path.rstrip("/"), mode) for path, mode in grants]
        self._workspace = workspace
        self._opener = opener

    def open_file(self, path: str) -> BufferedReader:
        """A regular file for reading. Never waits, whatever lies there."""
        place = self._place(path)
        with place:
            return os.fdopen(regular(place.open(_READ)), "rb")

    def open_any(self, path: str) -> int:
        """The descriptor of a regular file or a directory; the caller closes it."""
        place = self._place(path)
        with place:
            return regular(place.open(_READ), or_directory=True)

    def open_directory(self, path: str) -> int:
        """The descriptor of a directory, for listing; the caller closes it."""
        place = self._place(path)
        with place:
            return place.open(os.O_RDONLY | os.O_DIRECTORY)

    def replace(self, path: str, data: bytes, create_dirs: bool = False) -> None:
        """Write a whole file at once: readers see the old content or the new.

        An existing file keeps its mode. A symbolic link is written through as long as
        that stays beneath the root.
        """
        place = self._writable_place(path)
        with place:
            parent, name = place.open_parent(create_dirs)
            try:
                _replace(parent, name, data)
            finally:
                os.close(parent)

    def append(self, path: str, data: bytes, create_dirs: bool = False) -> None:
        """Add to the end of a regular file, which is created where there is none."""
        place = self._writable_place(path)
        with place:
            parent, name = place.open_parent(create_dirs)
            try:
                descriptor = os.open(name, _APPEND | _PLAIN, 0o666, dir_fd=parent)
            finally:
                os.close(parent)
            with os.fdopen(regular(descriptor), "wb") as file:
                file.write(data)

    def remove(self, path: str, recursive: bool = False) -> None:
        """Delete a file, a symbolic link (never what it leads to) or an empty directory;
        a directory with all it holds where `recursive`. Never a granted path itself."""
        place = self._writable_place(path.rstrip("/") or path)
        place.refuse_to_lose([grant for grant, _ in self._grants])
        with place:
            parent, name = place.open_parent(follow=False)
            try:
                _remove(parent, name, recursive)
            finally:
                os.close(parent)

    def _writable_place(self, path: str) -> Place:
        place = self._place(path, writing=True)
        if place.read_only:
            raise ToolFailure(f"path {shown(path)} is granted for reading only", "invalid_request")
        return place

    def _place(self, path: str, writing: bool = False) -> Place:
        _check_spelling(path)
        spelt = path if path.startswith("/") else f"{WORKSPACE}/{path}"
        absolute = "/" + "/".join(name for name in spelt.split("/") if name not in ("", "."))
        matching = [
            (len(grant), mode != "rw", grant)
            for grant, mode in self._grants
            if f"{absolute}/".startswith(f"{grant}/")
        ]
        if not matching:
            granted = ", ".join(grant or "/" for grant, _ in self._grants) or "no path at all"
            raise ToolFailure(
                f"path {shown(path)} leads outside {granted}, which is all this call may touch",
                "invalid_request",
            )
        _, read_only, grant = max(matching)
        guarded = writing and any(
            mode != "rw" and other.startswith(f"{grant}/") for other, mode in self._grants
        )
        return Place(path, absolute, grant, read_only, guarded, self._workspace, self._opener)


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


def _check_spelling(path: str) -> None:
    try:
        encoded = path.encode()
    except UnicodeEncodeError as error:
        raise ToolFailure("the path is not valid UTF-8", "invalid_request") from error
    if not path:
        raise ToolFailure("the path is empty; '.' is the workspace", "invalid_request")
    if "\0" in path:
        raise ToolFailure(f"path {shown(path)} holds a NUL character", "invalid_request")
    if len(encoded) > _MAX_PATH:
        raise ToolFailure(
            f"path {shown(path)} is {len(encoded)} bytes; {_MAX_PATH} at most", "invalid_request"
        )


def _replace(parent: int, name: str, data: bytes) -> None:
    mode = _mode(parent, name)
    temporary = f".{os.urandom(8).hex()}.tmp"
    descriptor = os.open(temporary, _NEW | _PLAIN, 0o666, dir_fd=parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if mode is not None:
                os.fchmod(descriptor, mode)
        os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        os.unlink(temporary, dir_fd=parent)
        raise


def _mode(parent: int, name: str) -> int | None:
    """Permissions of the regular file `name`, None where there is nothing."""
    try:
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise _not_regular(mode)
    return mode & 0o777  # never setuid: the content is new


def _remove(parent: int, name: str, recursive: bool) -> None:
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
