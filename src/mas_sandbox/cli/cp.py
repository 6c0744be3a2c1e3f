"""`mas-sandbox cp`: files and directories, into a sandbox and out of it."""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from cyclopts import Parameter

from mas_sandbox.sdk.errors import FileNotFound, InvalidRequest, IsADirectory, NotADirectory

from .archive import packed, unpack
from .chosen import DaemonUrl, Token
from .complete import places
from .progress import counted, transfer
from .relay import STDOUT
from .screen import complain
from .terminal import write_all

if TYPE_CHECKING:
    from mas_sandbox.api.live import Entry
    from mas_sandbox.sdk import Sandbox

_REMOTE = re.compile(r"([A-Za-z0-9_-]+):(.*)", re.DOTALL)
STANDARD = "-"

Place = Annotated[str, Parameter(completer=places, allow_leading_hyphen=True)]


@dataclass(frozen=True)
class Remote:
    """A path in a sandbox."""

    sandbox: str
    path: str


def cp(
    source: Annotated[Place, Parameter(help="A path, SANDBOX:PATH, or - for stdin.")],
    destination: Annotated[Place, Parameter(help="A path, SANDBOX:PATH, or - for stdout.")],
    /,
    *,
    recursive: Annotated[
        bool, Parameter(name=["--recursive", "-r"], help="Directories too.")
    ] = False,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], help="Show no progress.")] = False,
    url: DaemonUrl = None,
    token: Token = None,
) -> int:
    """Copy a file or directory into a sandbox, or out of it.

    As cp does: into a destination that is a directory, else to that name. A path
    in a sandbox is absolute, or beneath /workspace. Modes are kept, owners are
    not; links that lead out of a directory are left out of its copy here.
    """
    from mas_sandbox.sdk import Sandbox

    for word in (source, destination):
        if word.startswith("-") and word != STANDARD:
            raise InvalidRequest(f"{word} is no option; write a file of that name as ./{word}")
    here, there = remote(source), remote(destination)
    if (here is None) == (there is None):
        raise InvalidRequest(
            "one of the two is SANDBOX:PATH, the other a path here (./a:b for one with a colon)"
        )
    one = here or there
    assert one is not None
    with Sandbox.connect(one.sandbox, url, token) as place:
        if there is not None:
            _upload(place, source, there.path, recursive, quiet)
        else:
            _download(place, one.path, destination, recursive, quiet)
    return 0


def remote(text: str) -> Remote | None:
    """A path in a sandbox; None for one that is here.

    >>> remote("sb_1:/workspace/a")
    Remote(sandbox='sb_1', path='/workspace/a')
    >>> remote("./sb_1:a") is None
    True
    """
    found = _REMOTE.fullmatch(text)
    return Remote(found[1], found[2] or ".") if found else None


def _upload(place: Sandbox, source: str, path: str, recursive: bool, quiet: bool) -> None:
    if source == STANDARD:
        if path.endswith("/") or _is_directory(place, path):
            raise InvalidRequest(f"{path} is a directory; name the file that stdin becomes")
        with transfer("stdin", None, quiet) as count:
            place.files.write(path, counted(sys.stdin.buffer, count))
        return
    try:
        status = Path(source).stat()
    except OSError as exc:
        raise InvalidRequest(f"{source}: {exc.strerror}") from exc
    name = Path(source).resolve().name
    target = f"{path.rstrip('/')}/{name}" if _is_directory(place, path) else path
    if stat.S_ISDIR(status.st_mode):
        if not recursive:
            raise InvalidRequest(f"{source} is a directory; give -r to copy it")
        if source.rstrip("/").endswith("/.") or source == ".":
            target = path  # what is in it, as cp has it
        place.files.mkdir(target, parents=True)
        with transfer(name, None, quiet) as count, packed(source) as archive:
            place.files.upload_archive(target, counted(archive, count))
        return
    if path.endswith("/") and target == path:
        target = path + name
    with _opened(source) as file, transfer(name, status.st_size, quiet) as count:
        place.files.write(target, counted(file, count), mode=stat.S_IMODE(status.st_mode) & 0o777)


def _opened(source: str) -> BinaryIO:
    try:
        return Path(source).open("rb")
    except OSError as exc:
        raise InvalidRequest(f"{source}: {exc.strerror}") from exc


def _is_directory(place: Sandbox, path: str) -> bool:
    """Also through a symbolic link to one, as cp has it."""
    try:
        return (
            place.files.stat(path.rstrip("/") + "/." if path != "/" else path).type == "directory"
        )
    except (FileNotFound, NotADirectory):
        return False


def _download(place: Sandbox, path: str, destination: str, recursive: bool, quiet: bool) -> None:
    entry = place.files.stat(path)
    name = entry.name or "files"
    if entry.type == "directory" or (entry.type == "symlink" and _is_directory(place, path)):
        if not recursive:
            raise IsADirectory(f"{path} is a directory; give -r to copy it")
        _download_tree(place, path, name, destination, quiet)
    elif destination == STANDARD:
        with transfer(name, entry.size, quiet) as count:
            for piece in place.files.stream(path):
                write_all(STDOUT, piece)
                count(len(piece))
    else:
        target = Path(destination)
        if target.is_dir() or destination.endswith("/"):
            target /= _plain(name)
        _download_file(place, path, entry, target, quiet)


def _download_file(place: Sandbox, path: str, entry: Entry, target: Path, quiet: bool) -> None:
    """As whole as it is there, or not at all."""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name[:100]}.", dir=target.parent)
    except OSError as exc:
        raise InvalidRequest(f"{target}: {exc.strerror}") from exc
    try:
        with os.fdopen(descriptor, "wb") as file, transfer(target.name, entry.size, quiet) as count:
            for piece in place.files.stream(path):
                file.write(piece)
                count(len(piece))
            # A link's own mode is no file's.
            os.fchmod(file.fileno(), entry.mode & 0o777 if entry.type == "file" else 0o644)
        Path(temporary).replace(target)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise


def _download_tree(place: Sandbox, path: str, name: str, destination: str, quiet: bool) -> None:
    if destination == STANDARD:
        with transfer(name, None, quiet) as count:
            for piece in place.files.download_archive(path):
                write_all(STDOUT, piece)
                count(len(piece))
        return
    target = Path(destination)
    if target.is_dir() and not path.rstrip("/").endswith("/."):
        target /= _plain(name)
    with transfer(name, None, quiet) as count:
        left_out = unpack(place.files.download_archive(path), target, count)
    for link in left_out:
        complain(f"{link}: left out, a link that leads elsewhere")


def _plain(name: str) -> str:
    """A name that a sandbox says, as one of a directory here; raises InvalidRequest."""
    if "/" in name or name in ("", ".", ".."):
        raise InvalidRequest(f"{name!r} is no name for a file; say what it shall be called here")
    return name
