"""Directories as tar archives: ours for a sandbox, and a sandbox's, which trusts nobody.

What a sandbox packed is unpacked into a fresh directory in which no link is until all else
is there: so nothing of it can lead out, and what was there before is replaced entry by entry.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import BinaryIO, Self

from mas_sandbox.sdk.errors import BadReply, InvalidRequest

_ABOUT_THE_NEXT = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_MAX_ABOUT = 1024 * 1024
_MAX_DEPTH = 250


@contextmanager
def packed(directory: str) -> Iterator[BinaryIO]:
    """What is in a directory, as an archive that is made as it is read.

    Links stay links. Raises InvalidRequest for what cannot be read.
    """
    reading, writing = os.pipe()
    failures: list[OSError] = []

    def pack() -> None:
        try:
            with (
                os.fdopen(writing, "wb") as sink,
                tarfile.open(mode="w|", fileobj=sink, format=tarfile.PAX_FORMAT) as archive,
            ):
                for entry in sorted(Path(directory).iterdir()):
                    archive.add(entry, entry.name, filter=_sendable)
        except BrokenPipeError:
            pass  # who reads it has had enough
        except OSError as error:
            failures.append(error)

    packer = Thread(target=pack, daemon=True)
    packer.start()
    try:
        with os.fdopen(reading, "rb") as source:
            yield source
    finally:
        packer.join()
        if failures:
            # Whoever read it saw no more than that it broke off.
            error = failures[0]
            raise InvalidRequest(f"{error.filename or directory}: {error.strerror}") from error


def _sendable(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Without owners; FIFOs, sockets and devices are passed over, as a sandbox does."""
    if not (member.isreg() or member.isdir() or member.issym() or member.islnk()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def unpack(pieces: Iterable[bytes], target: Path, count: Callable[[int], None]) -> list[str]:
    """An archive into `target`, made where it is missing; the links that were left out.

    `count`: told of the bytes as they come. Raises BadReply for an archive that holds what
    none of a sandbox does, InvalidRequest where nothing can be written.
    """
    try:
        around = Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.", dir=target.parent))
    except OSError as exc:
        raise InvalidRequest(f"{target}: {exc.strerror}") from exc
    try:
        fresh = around / "fresh"
        fresh.mkdir()
        left_out = _extract(_Pieces(pieces, count), fresh)
        _merge(fresh, target)
    except (tarfile.TarError, ValueError) as exc:  # ValueError: a NUL in a name
        raise BadReply(f"the archive cannot be read: {exc}") from exc
    except OSError as exc:
        raise InvalidRequest(f"{exc.filename or target}: {exc.strerror}") from exc
    finally:
        shutil.rmtree(around, ignore_errors=True)
    return left_out


def _extract(source: _Pieces, fresh: Path) -> list[str]:
    links: list[tuple[PurePosixPath, str]] = []
    modes: list[tuple[Path, int]] = []
    with tarfile.open(mode="r|", fileobj=source, tarinfo=_Member) as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # it keeps every one, for nothing
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts or len(name.parts) > _MAX_DEPTH:
                raise BadReply(
                    f"the archive holds {member.name[:200]!r}, which leads elsewhere, or too deep"
                )
            path = fresh / name
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
                modes.append((path, member.mode))
            elif member.issym():
                links.append((name, member.linkname))
            elif member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None:
                _write(archive, member, path)
            else:
                raise BadReply(f"the archive holds {member.name!r}, of a kind that is not packed")
    source.finish()
    left_out = [str(name) for name, target in links if not _link(fresh, name, target)]
    for path, mode in reversed(modes):
        path.chmod((mode & 0o777) | 0o700)
    return left_out


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = archive.extractfile(member)
    assert content is not None
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, member.mode & 0o777), "wb") as file:
        shutil.copyfileobj(content, file, 256 * 1024)
        os.fchmod(file.fileno(), member.mode & 0o777)


def _link(fresh: Path, name: PurePosixPath, target: str) -> bool:
    """Whether it stays beneath: relative, and climbing no higher than it is deep, at its start."""
    parts = PurePosixPath(target).parts
    climbs = len([part for part in parts if part == ".."])
    if PurePosixPath(target).is_absolute() or not parts:
        return False
    if any(part == ".." for part in parts[climbs:]) or climbs > len(name.parts) - 1:
        return False
    # Through another link it would be deeper than it looks, or less deep.
    if any((fresh / above).is_symlink() for above in name.parents):
        return False
    path = fresh / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return True


def _merge(fresh: Path, target: Path) -> None:
    """Entry by entry to where it belongs; directories that are there keep what else they hold."""
    if target.is_symlink() or not target.is_dir():
        fresh.rename(target)  # refused by the system where a file is
        return
    for entry in fresh.iterdir():
        there = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and there.is_dir():
            if there.is_symlink():
                raise InvalidRequest(f"{there} is a link; remove it first")
            _merge(entry, there)
        else:
            entry.replace(there)


class _Member(tarfile.TarInfo):
    """A header. One that only describes the next is read into memory: in bounds."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _ABOUT_THE_NEXT and member.size > _MAX_ABOUT:
            raise BadReply(f"the archive describes an entry in {member.size} bytes")
        return member


class _Pieces(RawIOBase):
    """An iterator of bytes as a file to read from."""

    def __init__(self, pieces: Iterable[bytes], count: Callable[[int], None]) -> None:
        super().__init__()
        self._pieces = iter(pieces)
        self._count = count
        self._left = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """As much as the next piece holds, `size` at most."""
        if not self._left:
            self._left = next(self._pieces, b"")
            self._count(len(self._left))
        taken = self._left[:size] if size >= 0 else self._left
        self._left = self._left[len(taken) :]
        return taken

    def finish(self) -> None:
        """To the end, so that an archive that broke off is told."""
        for piece in self._pieces:
            self._count(len(piece))
