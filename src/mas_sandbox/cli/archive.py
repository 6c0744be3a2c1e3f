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
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import BinaryIO

from mas_sandbox.sdk.errors import BadReply, InvalidRequest

_AT_ONCE = 64 * 1024
"""Bytes that are read in one go: a header that describes the next is, whatever it says it holds."""
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
    except (tarfile.TarError, ValueError, RecursionError) as exc:
        # ValueError: a NUL in a name; RecursionError: descriptions of descriptions
        raise BadReply(f"the archive cannot be read: {exc}") from exc
    except OSError as exc:
        raise InvalidRequest(f"{exc.filename or target}: {exc.strerror}") from exc
    finally:
        shutil.rmtree(around, ignore_errors=True)
    return left_out


def _extract(source: _Pieces, fresh: Path) -> list[str]:
    links: list[tuple[PurePosixPath, str]] = []
    modes: list[tuple[Path, int]] = []
    # It only reads, and closes nothing that it was given.
    with tarfile.TarFile(fileobj=source) as archive:  # type: ignore[arg-type]
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
        shutil.copyfileobj(content, file, _AT_ONCE)
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


class _Pieces:
    """An iterator of bytes as a file that is read forward, in bounds."""

    def __init__(self, pieces: Iterable[bytes], count: Callable[[int], None]) -> None:
        self._pieces = iter(pieces)
        self._count = count
        self._left = memoryview(b"")
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        if position < self._position:
            raise BadReply("the archive leads back to what was read")
        while self._position < position and self.read(min(position - self._position, _AT_ONCE)):
            pass

    def read(self, size: int) -> bytes:
        """So many bytes, or all that are left. Raises BadReply where they are too many to hold."""
        if not 0 <= size <= _AT_ONCE:
            raise BadReply(f"the archive describes an entry in {size} bytes")
        taken = bytearray()
        while len(taken) < size and self._fill():
            part = self._left[: size - len(taken)]
            self._left = self._left[len(part) :]
            taken += part
        self._position += len(taken)
        return bytes(taken)

    def _fill(self) -> bool:
        """Whether there is something left."""
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._count(len(piece))
            self._left = memoryview(piece)
        return True

    def finish(self) -> None:
        """To the end, so that an archive that broke off is told."""
        for piece in self._pieces:
            self._count(len(piece))
