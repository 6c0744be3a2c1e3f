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

from mas_sandbox.wire.isolation import WORKSPACE

from . import changes
from .beneath import DIRECTORY, link_target
from .changes import regular
from .place import Place, answered, shown
from .tools import ToolFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from io import BufferedReader

    from .beneath import Opener

_MAX_PATH = 4095  # bytes: PATH_MAX less its NUL
# O_NONBLOCK: opening a FIFO never waits for its other end.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY
_PLAIN = os.O_NOFOLLOW | os.O_CLOEXEC


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

    def absolute(self, path: str) -> str:
        """The path as an answer names it, without empty and `.` components."""
        return self._place(path).absolute

    def status(self, path: str) -> tuple[os.stat_result, str | None]:
        """lstat(2), and what a symbolic link holds."""
        place = self._place(path)
        with place:
            if place.names_directory:
                directory = place.open(DIRECTORY)
                try:
                    return os.fstat(directory), None
                finally:
                    os.close(directory)
            parent, name = place.open_parent(follow=False)
            try:
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                return status, link_target(parent, name)
            finally:
                os.close(parent)

    def require_writable(self, path: str) -> None:
        """Raises ToolFailure for a path that is, by its text, not granted for writing."""
        self._writable_place(path)

    def replace(self, path: str, data: bytes, create_dirs: bool = False) -> None:
        """`write`, of content that is there already."""
        self.write(path, (data,), create_dirs)

    def write(
        self,
        path: str,
        pieces: Iterable[bytes],
        create_dirs: bool = False,
        mode: int | None = None,
    ) -> os.stat_result:
        """Write a whole file at once: readers see the old content or the new.

        An existing file keeps its mode, unless one is given. A symbolic link is written
        through as long as that stays beneath the root.
        """
        place = self._writable_place(path)
        with place:
            parent, name = place.open_parent(create_dirs)
            try:
                return changes.replace(parent, name, pieces, mode)
            finally:
                os.close(parent)

    def make_directory(self, path: str, parents: bool = False) -> bool:
        """Whether it was made: one that is there already is fine with `parents`, which
        makes those above it too."""
        place = self._writable_place(path.rstrip("/") or path)
        with place:
            if place.is_directory():
                if parents:
                    return False
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            parent, name = place.open_parent(parents, follow=False)
            try:
                os.mkdir(name, dir_fd=parent)
            finally:
                os.close(parent)
        return True

    def move(self, source: str, destination: str, overwrite: bool = False) -> None:
        """rename(2), of a symbolic link itself; never of or over a granted path, nor onto
        another file system."""
        leaving = self._writable_place(source.rstrip("/") or source)
        arriving = self._writable_place(destination.rstrip("/") or destination)
        for place in (leaving, arriving):
            place.refuse_to_lose([grant for grant, _ in self._grants])
        with leaving:
            parent, name = leaving.open_parent(follow=False)
        try:
            with arriving:
                above, to = arriving.open_parent(follow=False)
            try:
                self._move(leaving, (parent, name), arriving, (above, to), overwrite)
            finally:
                os.close(above)
        finally:
            os.close(parent)

    def _move(
        self,
        leaving: Place,
        source: tuple[int, str],
        arriving: Place,
        target: tuple[int, str],
        overwrite: bool,
    ) -> None:
        try:
            changes.move(*source, *target, overwrite)
        except OSError as error:
            if error.errno == errno.EXDEV:
                message = (
                    f"{shown(arriving.path)} is on another file system than {shown(leaving.path)};"
                    " copy it there, then remove it here"
                )
                raise ToolFailure(message) from error
            if error.errno == errno.EINVAL:
                message = f"{shown(arriving.path)} lies inside of {shown(leaving.path)}"
                raise ToolFailure(message, "invalid_request") from error
            missing = error.errno == errno.ENOENT
            raise answered((leaving if missing else arriving).path, error) from error

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
                changes.remove(parent, name, recursive)
            finally:
                os.close(parent)

    def _writable_place(self, path: str) -> Place:
        place = self._place(path, writing=True)
        if place.read_only:
            raise ToolFailure(
                f"path {shown(path)} is granted for reading only", "invalid_request", "permission"
            )
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
                "permission",
            )
        _, read_only, grant = max(matching)
        guarded = writing and any(
            mode != "rw" and other.startswith(f"{grant}/") for other, mode in self._grants
        )
        return Place(path, absolute, grant, read_only, guarded, self._workspace, self._opener)


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
