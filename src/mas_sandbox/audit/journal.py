"""The log itself: a chain of records that several daemons append to.

Every append holds an exclusive `flock(2)` on the file that grows, follows the chain to where
others have taken it, and is one write and one sync. A file that is full is put away first
(see `files`). Blocking; see `log` for asyncio. Offsets are counted from the log's beginning,
over all its files.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import files, records
from .storage import Storage, sync_directory

MOST = 256 * 1024 * 1024
"""Bytes in one file of a log."""


class DamagedLog(Exception):
    """The log is not in the state that a crash could have left it in."""


class Journal:
    """An open log. Methods that say so are called while `locked`."""

    def __init__(self, path: Path, storage: Storage, most: int = MOST) -> None:
        """`most`: bytes in a file, behind which the next is begun. Raises OSError where the
        file cannot be opened or made."""
        self.path = path
        self.sequence = 0
        self.digest = records.GENESIS
        self._storage = storage
        self._most = most
        self._descriptor = self._opened()

    def _opened(self) -> int:
        self._size, self._base = -1, 0
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise OSError(f"{self.path} is not a regular file")
        if status.st_size == 0:
            sync_directory(self.path.parent)
        return descriptor

    @property
    def end(self) -> int:
        """The offset behind the last record (caught up)."""
        return self._base + self._size

    def close(self) -> None:
        os.close(self._descriptor)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other daemons from appending."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            while self._is_full():
                self._put_away()
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def ready(self, stamp: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Find the end of the chain, in the file that is to be appended to (locked).

        Returns fields of records that must come first, without `stamp`. A torn last line,
        left by a crash in the middle of a write, is moved to `<log>.torn-<n>`. Raises
        OSError, and DamagedLog where the log was removed, cut or changed by something else.
        """
        first = self._catch_up()
        if self._size < self._most:
            return first
        try:
            self.append([{"kind": "rotated", **stamp}])
        except OSError:
            return first  # no room for it: whether there is for more, the next write tells
        self._put_away()
        return self._catch_up() + first

    def _catch_up(self) -> list[dict[str, Any]]:
        status = os.fstat(self._descriptor)
        if not self._is_in_place():
            raise DamagedLog(f"{self.path} was removed or replaced under this daemon")
        if status.st_size < self._size:
            raise DamagedLog(f"{self.path} was cut from {self._size} to {status.st_size} bytes")
        if status.st_size == self._size:
            return []
        end, torn = files.line_before(self._descriptor, status.st_size)
        recovered = [self._move_aside(torn, end)] if torn else []
        return (self._follow(end) if end else self._begin()) + recovered

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            return False

    def _is_full(self) -> bool:
        """Whether our file's last record says that the log goes on in another (locked)."""
        size = os.fstat(self._descriptor).st_size
        if size == self._size and self._is_in_place():
            return False
        with suppress(ValueError):
            return bool(files.last_record(self._descriptor, size).get("kind") == "rotated")
        return False

    def _put_away(self) -> None:
        """Rename the file, if nobody has, and go on in the next, locked (locked)."""
        if self._is_in_place():
            self.path.rename(files.next_place(self.path))
        full, self._descriptor = self._descriptor, self._opened()
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        os.close(full)

    def append(self, batch: Sequence[Mapping[str, Any]], *, sync: bool = True) -> list[int]:
        """Append records with these fields (locked, caught up).

        Returns the offset of each. Raises OSError; nothing of the batch counts then.
        """
        offsets, lines = [], []
        sequence, digest, offset = self.sequence, self.digest, self.end
        for fields in batch:
            sequence += 1
            record = records.seal(fields, sequence, digest)
            digest = record["digest"]
            line = records.encode(record)
            offsets.append(offset)
            lines.append(line)
            offset += len(line)
        try:
            self._storage.write(self._descriptor, b"".join(lines))
        except OSError:
            # Where even this fails, the next daemon finds a torn line and mends it.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        if sync:
            self._storage.sync(self._descriptor)
        self.sequence, self.digest, self._size = sequence, digest, offset - self._base
        return offsets

    def records_from(self, offset: int) -> Iterator[records.Record]:
        """The sound records from an offset to the end of the chain (locked, caught up)."""
        start = offset if offset <= self.end else 0
        parts = [(self._base, self.path)]
        for path in reversed(files.put_away(self.path)):
            if parts[-1][0] <= start:
                break
            parts.append((parts[-1][0] - path.stat().st_size, path))
        for base, path in reversed(parts):
            with path.open("rb") as file:
                file.seek(max(0, start - base))
                for line in file:
                    with suppress(ValueError):
                        yield records.parse(line)

    def _begin(self) -> list[dict[str, Any]]:
        """Take up the chain where the file that was put away last leaves it."""
        self._size = 0
        before = files.put_away(self.path)
        if not before:
            self._base, self.sequence, self.digest = 0, 0, records.GENESIS
            return []
        place = before[-1]
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            self._take_up(place, descriptor, size)
            self._base = files.begins_at(place) + size
            identity = files.log_id(place)
        except ValueError as error:
            raise DamagedLog(str(error)) from error
        finally:
            os.close(descriptor)
        return [
            {"kind": "continued", "file": place.name, "log": identity, "offset": self._base},
        ]

    def _follow(self, end: int) -> list[dict[str, Any]]:
        """Take up the chain at the last complete line, which ends at `end`."""
        self._take_up(self.path, self._descriptor, end)
        if self._size < 0:
            self._base = files.begins_at(self.path)
        self._size = end
        return []

    def _take_up(self, path: Path, descriptor: int, end: int) -> None:
        try:
            last = files.last_record(descriptor, end)
        except ValueError as error:
            raise DamagedLog(
                f"the last record of {path} {error}; keep the log as evidence: move it aside, "
                "with every file of its name and a number, and a new one is begun"
            ) from error
        self.sequence, self.digest = last["seq"], last["digest"]

    def _move_aside(self, torn: bytes, end: int) -> dict[str, Any]:
        number = 1
        while True:
            place = self.path.with_name(f"{self.path.name}.torn-{number}")
            try:
                descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                number += 1
            else:
                break
        try:
            self._storage.write(descriptor, torn)
            self._storage.sync(descriptor)
        finally:
            os.close(descriptor)
        os.ftruncate(self._descriptor, end)
        return {"kind": "recovered", "torn_bytes": len(torn), "torn_file": place.name}
