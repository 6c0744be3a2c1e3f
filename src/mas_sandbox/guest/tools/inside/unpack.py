"""sandbox.unpack: a tar archive into a directory, and into nothing else."""

from __future__ import annotations

import errno
import os

from mas_sandbox.guest.beneath import DIRECTORY as STEP
from mas_sandbox.guest.beneath import open_beneath
from mas_sandbox.guest.changes import regular, write_all
from mas_sandbox.guest.place import answered
from mas_sandbox.guest.tools import ToolFailure
from mas_sandbox.guest.tools.arguments import integer, only, text

from . import PIECE, tar
from .entry import text_of
from .source import Source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files

MAX_ENTRIES = 1_000_000
MAX_BYTES = 2**50
MAX_DEPTH = 100
_DEFAULT_ENTRIES = 100_000
_DEFAULT_BYTES = 1024 * 1024 * 1024
_AFTER = 1024 * 1024
"""Bytes behind the archive's end that are taken in: writers fill up their last record."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SEEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(args: dict[str, Any], files: Files) -> dict[str, int]:
    """{path, max_entries = 100,000, max_bytes = 1 GiB} <- a tar archive on standard input,
    plain or gzip; {entries, bytes} of content.

    `path` is a directory that is there. Refused, with ToolFailure `invalid_request`: a name
    that is absolute or holds `..`; one that leads through a symbolic link, of the archive's
    or there before; a symbolic link that is absolute, or climbs out, or climbs anywhere but
    at its start; a hard link to what is not a file in `path`; devices, FIFOs, sparse files.
    What is more than the bounds is refused with the reason `too_large`. Setuid, setgid and
    sticky bits are dropped, owners ignored; files that are there are replaced. What came
    before the failure stays.
    """
    only(args, "path", "max_entries", "max_bytes")
    path = text(args, "path")
    most = integer(args, "max_entries", _DEFAULT_ENTRIES, 0, MAX_ENTRIES)
    left = integer(args, "max_bytes", _DEFAULT_BYTES, 0, MAX_BYTES)
    files.require_writable(path)
    source = Source(lambda: os.read(0, PIECE))
    target = _Target(files, path)
    entries = total = 0
    try:
        while (member := tar.decode(source.take)) is not None:
            entries += 1
            total += member.size
            if entries > most or total > left:
                raise ToolFailure(
                    f"the archive holds more than {most} entries or {left} bytes",
                    "invalid_request",
                    "too_large",
                )
            target.add(member, source)
            source.take(tar.padding(member.size))
    finally:
        target.close()
    source.finish(_AFTER)
    return {"entries": entries, "bytes": total}


class _Target:
    """No symbolic link is ever followed beneath it, so that a name's text is where it leads."""

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self._path = files.absolute(path)
        self._root = files.open_directory(path)
        self._held: tuple[list[str], int] = [], os.dup(self._root)

    def close(self) -> None:
        os.close(self._held[1])
        os.close(self._root)

    def add(self, member: tar.Member, source: Source) -> None:
        """Raises ToolFailure."""
        shown = text_of(os.fsdecode(member.name))
        names = _components(member.name, shown)
        try:
            self._add(member, names, source)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                message = f"{shown[:200]!r} leads through a symbolic link or a file"
                raise ToolFailure(message, "invalid_request", "not_a_directory") from error
            raise answered(shown, error) from error

    def _add(self, member: tar.Member, names: list[str], source: Source) -> None:
        if not names:
            if member.kind != tar.DIRECTORY:
                raise _refused("the directory itself", "is no directory in the archive")
            return
        self._require_writable(names)
        parent, name = self._directory(names[:-1]), names[-1]
        match member.kind:
            case tar.DIRECTORY:
                self._directory(names, 0o700 | member.mode)
            case tar.FILE:
                _write_file(parent, name, member, source)
            case tar.SYMLINK:
                _check_target(member, len(names) - 1)
                _clear(parent, name)
                os.symlink(member.target, name, dir_fd=parent)
            case tar.LINK:
                self._link(member, names, parent)
            case _:
                raise _refused(text_of("/".join(names)), "is a device, a FIFO or of no known kind")

    def _require_writable(self, names: list[str]) -> None:
        """A read-only grant may lie beneath; none has a name that is not UTF-8."""
        self._files.require_writable(text_of(f"{self._path}/{'/'.join(names)}"))

    def _directory(self, names: list[str], mode: int = 0o777) -> int:
        """Its descriptor, kept open until the next; those that are missing are made."""
        if names != self._held[0]:
            directory = self._open_or_make(names, mode)
            os.close(self._held[1])
            self._held = names, directory
        return self._held[1]

    def _open_or_make(self, names: list[str], mode: int) -> int:
        if not names:
            return os.dup(self._root)
        try:
            return self._open(names)
        except FileNotFoundError:
            pass
        for count in range(1, len(names) + 1):
            above = self._open(names[: count - 1])
            try:
                os.mkdir(names[count - 1], mode if count == len(names) else 0o777, dir_fd=above)
            except FileExistsError:
                continue  # or it is no directory: the open tells
            finally:
                os.close(above)
        return self._open(names)

    def _open(self, names: list[str]) -> int:
        return open_beneath(self._root, "/".join(names) or ".", STEP, symlinks=False)

    def _link(self, member: tar.Member, names: list[str], parent: int) -> None:
        shown = text_of(os.fsdecode(member.target))
        first = _components(member.target, shown)
        if not first or first == names:
            raise _refused(shown, "is no file to link to")
        self._require_writable(first)
        above = self._open(first[:-1])
        try:
            os.close(regular(os.open(first[-1], _SEEN, dir_fd=above)))
            _clear(parent, names[-1])
            os.link(
                first[-1], names[-1], src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False
            )
        finally:
            os.close(above)


def _write_file(parent: int, name: str, member: tar.Member, source: Source) -> None:
    """A new one: what was there may be a link to, or a name of, something else."""
    _clear(parent, name)
    descriptor = os.open(name, _NEW, 0o600, dir_fd=parent)
    try:
        left = member.size
        while left:
            piece = source.piece(left)
            write_all(descriptor, piece)
            left -= len(piece)
        os.fchmod(descriptor, member.mode)
        os.utime(descriptor, (member.mtime, member.mtime))
    except BaseException:
        os.unlink(name, dir_fd=parent)
        raise
    finally:
        os.close(descriptor)


def _clear(parent: int, name: str) -> None:
    """Take away what is there; a directory is left, and in the way."""
    try:  # noqa: SIM105  # contextlib would be an import
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass


def _components(name: bytes, shown: str) -> list[str]:
    """Of a name beneath the directory."""
    names = [part for part in os.fsdecode(name).split("/") if part not in ("", ".")]
    if name.startswith(b"/") or ".." in names or b"\0" in name:
        raise _refused(shown, "is absolute, or holds '..' or NUL")
    if len(names) > MAX_DEPTH:
        raise _refused(shown, f"is more than {MAX_DEPTH} levels deep")
    return names


def _check_target(member: tar.Member, depth: int) -> None:
    """Of a symbolic link in a directory that is `depth` beneath ours, by no links.

    It may climb at its start alone, as far as ours. What follows descends, through
    directories, or links for which the same holds: so whatever else is in the archive, and
    in whichever order, none leads outside.
    """
    shown = text_of(os.fsdecode(member.name))
    parts = [part for part in member.target.split(b"/") if part not in (b"", b".")]
    climbs = 0
    while climbs < len(parts) and parts[climbs] == b"..":
        climbs += 1
    if not member.target or b"\0" in member.target or member.target.startswith(b"/"):
        raise _refused(shown, "is a symbolic link with an absolute target, or none")
    if climbs > depth or b".." in parts[climbs:]:
        raise _refused(shown, "is a symbolic link that leads outside, or climbs on its way")


def _refused(shown: str, what: str) -> ToolFailure:
    return ToolFailure(
        f"{shown[:200]!r} in the archive {what}; nothing more of it was unpacked", "invalid_request"
    )
