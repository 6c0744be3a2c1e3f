"""Opening the host directories of a sandbox: once, by descriptor, and only what may be.

From then on nothing looks at their paths again, so that whoever renames or replaces
something on the host meanwhile changes nothing about what the sandbox sees.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..base import Mount
from . import kernel

_SYSTEM = {
    "/proc": "it shows and steers every process of the host",
    "/sys": "it shows and steers the host's kernel and its devices",
    "/dev": "it holds the host's devices",
    "/run/mas-sandbox": "it holds the daemon's own locks",
}
_INSIDE = (
    *("/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/opt/mas", "/proc"),
    *("/run", "/sbin", "/sys", "/tmp", "/usr"),  # noqa: S108
)
"""What a sandbox is made of. A directory of the host's in its place would be its programs,
and beneath /tmp every call may write."""

_Identity = tuple[int, int]
"""Device and inode."""
_Protected = tuple[Path, list[_Identity]]
"""A path, and its identity with those of all that hold it."""


@dataclass(frozen=True, slots=True)
class OpenedDirectory:
    """`descriptor`: O_PATH; `user`, `group`: its owner on the host."""

    mount: Mount
    descriptor: int
    user: int
    group: int


def open_directories(
    mounts: Sequence[Mount], protected: Iterable[Path], undo: ExitStack
) -> list[OpenedDirectory]:
    """Each mount's directory, opened; outer mounts before those inside them.

    `protected`: the daemon's own directories; `undo` closes what was opened.
    Raises SandboxError: `invalid_request` for a directory that cannot be given to a
    sandbox, naming it and the mend.
    """
    own = [*_identities(protected)]
    for mount in mounts:
        _check_place(mount)
    opened = []
    for mount in sorted(mounts, key=lambda mount: mount.path):
        descriptor = _open(mount)
        undo.callback(os.close, descriptor)
        _refuse_protected(mount, descriptor, own)
        status = os.fstat(descriptor)
        opened.append(OpenedDirectory(mount, descriptor, status.st_uid, status.st_gid))
    return opened


def _check_place(mount: Mount) -> None:
    path = mount.path
    if path == "/":
        raise _refused(mount, "cannot appear as /, which every sandbox has of its own")
    for part in _INSIDE:
        if f"{path}/".startswith(f"{part}/") or f"{part}/".startswith(f"{path}/"):
            raise _refused(
                mount, f"cannot appear at {path}: {part} is what the sandbox itself is made of"
            )


def _open(mount: Mount) -> int:
    host = mount.host
    if host == "/":
        raise _refused(mount, "is all of the host; name the directory that is needed")
    for part, reason in _SYSTEM.items():
        if f"{host}/".startswith(f"{part}/"):
            raise _refused(mount, f"cannot be given to a sandbox: {reason}")
    try:
        return kernel.open_without_links(host, kernel.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise _refused(mount, _why(error)) from error


def _why(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "does not exist; make it first"
        case errno.ELOOP:
            return "goes through a symbolic link; name the directory that the link leads to"
        case errno.ENOTDIR:
            return "is no directory, or goes through something that is none"
        case errno.EACCES:
            return "cannot be reached by the daemon's user; give it the right to"
        case errno.ENOSYS | errno.EPERM:
            return "cannot be opened safely: openat2 is missing; it needs Linux 5.6"
        case _:
            return f"cannot be opened: {error.strerror}"


def _refuse_protected(mount: Mount, descriptor: int, own: Sequence[_Protected]) -> None:
    """By identity, which also sees through bind mounts, and of what was opened."""
    way = _way(descriptor)
    for path, protected in own:
        if protected[0] in way:
            raise _refused(mount, f"is inside {path}, which is the daemon's own")
        if way[0] in protected:
            raise _refused(
                mount, f"holds {path}, which is the daemon's own; name a directory without it"
            )


def _identities(protected: Iterable[Path]) -> Iterator[_Protected]:
    for path in protected:
        try:
            descriptor = os.open(path, kernel.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            yield path, _way(descriptor)
        finally:
            os.close(descriptor)


def _way(directory: int) -> list[_Identity]:
    """A directory and every one above it, but for the root."""
    found: list[_Identity] = []
    here = os.dup(directory)
    try:
        while True:
            status = os.fstat(here)
            identity = status.st_dev, status.st_ino
            above = os.open("..", kernel.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = above
            status = os.fstat(above)
            if identity == (status.st_dev, status.st_ino):
                return found or [identity]
            found.append(identity)
    finally:
        os.close(here)


def _refused(mount: Mount, what: str) -> SandboxError:
    return SandboxError(
        ErrorCode.INVALID_REQUEST, f"paths: the host directory {mount.host[:300]} {what}"
    )
