"""The log file itself: a chain of records that several daemons append to.

Every append holds an exclusive `flock(2)` on the file, follows the chain to where
others have taken it, and is one write and one sync. Blocking; see `log` for asyncio.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import records
from .storage import Storage, sync_directory

_CHUNK = 64 * 1024


class DamagedLog(Exception):
    """The log is not in the state that a crash could have left it in."""


class Journal:
    """An open log. Methods that say so are called while `locked`."""

    def __init__(self, path: Path, storage: Storage) -> None:
        """Raises OSError where the file cannot be opened or made."""
        self.path = path
        self.size = -1
        self._storage = storage
        self._sequence = 0
        self._digest = records.GENESIS
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise OSError(f"{path} is not a regular file")
        if status.st_size == 0:
            sync_directory(path.parent)

    def close(self) -> None:
        os.close(self._descriptor)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other daemons from appending."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def catch_up(self) -> list[dict[str, Any]]:
        """Find the end of the chain (locked).

        A torn last line, left by a crash in the middle of a write, is moved to
        `<log>.torn-<n>`; the fields of a `recovered` record that says so are returned.
        Raises DamagedLog where the log was removed, cut or changed by something else.
        """
        status = os.fstat(self._descriptor)
        if not (self.path.exists() and os.path.samestat(status, self.path.stat())):
            raise DamagedLog(f"{self.path} was removed or replaced under this daemon")
        if status.st_size < self.size:
            raise DamagedLog(f"{self.path} was cut from {self.size} to {status.st_size} bytes")
        if status.st_size == self.size:
            return []
        end, torn = self._line_before(status.st_size)
        recovered = [self._move_aside(torn, end)] if torn else []
        self._follow(end)
        return recovered

    def append(self, batch: Sequence[Mapping[str, Any]], *, sync: bool = True) -> list[int]:
        """Append records with these fields (locked, caught up).

        Returns the offset of each. Raises OSError; nothing of the batch counts then.
        """
        offsets, lines = [], []
        sequence, digest, offset = self._sequence, self._digest, self.size
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
                os.ftruncate(self._descriptor, self.size)
            raise
        if sync:
            self._storage.sync(self._descriptor)
        self._sequence, self._digest, self.size = sequence, digest, offset
        return offsets

    def records_from(self, offset: int) -> Iterator[records.Record]:
        """The sound records from an offset to the end of the chain (locked)."""
        with self.path.open("rb") as file:
            file.seek(offset if offset <= self.size else 0)
            for line in file:
                with suppress(ValueError):
                    yield records.parse(line)

    def _follow(self, end: int) -> None:
        """Take up the chain at the last complete line, which ends at `end`."""
        if end == 0:
            self._sequence, self._digest = 0, records.GENESIS
        else:
            start, line = self._line_before(end - 1)
            try:
                last = records.parse(line + b"\n")
            except ValueError as error:
                raise DamagedLog(
                    f"the last record of {self.path}, at byte {start}, {error}; "
                    "keep the file as evidence, move it aside, and a new log is begun"
                ) from error
            self._sequence, self._digest = last["seq"], last["digest"]
        self.size = end

    def _line_before(self, end: int) -> tuple[int, bytes]:
        """Where the line that ends at `end` begins, and its bytes without the newline."""
        pieces: list[bytes] = []
        while end > 0:
            begin = max(0, end - _CHUNK)
            chunk = os.pread(self._descriptor, end - begin, begin)
            newline = chunk.rfind(b"\n")
            pieces.append(chunk[newline + 1 :])
            end = begin + newline + 1 if newline >= 0 else begin
            if newline >= 0:
                break
        return end, b"".join(reversed(pieces))

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
