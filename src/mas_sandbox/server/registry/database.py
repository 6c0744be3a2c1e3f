"""A SQLite file of the daemon's own, used in a thread of its own.

A file that is damaged, of another version or of something else is refused, never half believed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mas_sandbox.wire.errors import ErrorCode, SandboxError

if TYPE_CHECKING:
    import sqlite3

_BUSY_S = 5.0

Answer = TypeVar("Answer")


class Damaged(Exception):
    """The file is not what a daemon of ours left."""


class Database:
    """Opened by `open`, or by the first that needs it; ended with `await close()`."""

    def __init__(
        self,
        path: Path,
        *,
        application: int,
        version: int,
        schema: str,
        begun_anew: str,
        ready: Callable[[], None] | None = None,
    ) -> None:
        """`application`, `version`: of the file, which is told by them; `begun_anew`: what a new
        one in its place would mean; `ready`: called in the thread once it is open; what it raises
        closes it again."""
        self.path = path
        self._application = application
        self._version = version
        self._schema = schema
        self._begun_anew = begun_anew
        self._ready = ready
        self._thread: ThreadPoolExecutor | None = None
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Blocks. Raises SandboxError `internal`, with the mend."""
        self._worker().submit(self._guarded, self.connection).result()

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """What `work` returns, in the thread. Raises SandboxError `internal`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker(), self._guarded, work)

    async def close(self) -> None:
        """Safe to call twice, and where nothing was opened."""
        if self._thread is not None:
            await self.run(self._close)
            self._thread.shutdown()
            self._thread = None

    def _worker(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, self.path.stem)
        return self._thread

    # What happens in the thread.

    def connection(self) -> sqlite3.Connection:
        if self._connection is None:
            made = _connect(self.path)
            try:
                self._prepare(made)
                self._connection = made
                if self._ready is not None:
                    self._ready()
            except BaseException:
                self._connection = None
                made.close()
                raise
        return self._connection

    @contextmanager
    def transaction(self, *, lasting: bool = False) -> Iterator[sqlite3.Connection]:
        """Whose end is on its way to the disk; where it is `lasting`, it is there, and with it
        all that came before."""
        connection = self.connection()
        connection.execute(f"PRAGMA synchronous = {'FULL' if lasting else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _guarded(self, work: Callable[[], Answer]) -> Answer:
        import sqlite3

        try:
            return work()
        except (sqlite3.Error, OSError, Damaged) as error:
            raise SandboxError(
                ErrorCode.INTERNAL,
                f"{self.path} cannot be used: {error}; mend the cause, or move the file aside "
                f"with its -wal and -shm: a new one is begun, {self._begun_anew}",
            ) from error

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Raises `Damaged` or sqlite3.Error for what is not whole, or not ours."""
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("BEGIN IMMEDIATE")  # two daemons may begin the file at once
        try:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            (application,) = database.execute("PRAGMA application_id").fetchone()
            (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if version == 0 and tables == 0:
                for statement in self._schema.split(";")[:-1]:
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {self._version}")
                database.execute(f"PRAGMA application_id = {self._application}")
            elif application != self._application:
                raise Damaged("it is a database of something else")
            elif version != self._version:
                raise Damaged(
                    f"it was written by another version of mas-sandboxd (schema {version}, "
                    f"this one reads {self._version}): start that version"
                )
            (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise Damaged(f"it is damaged ({verdict})")
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def digest_of(row: Sequence[object]) -> str:
    """What is kept beside a row, so that one which was altered is noticed."""
    return hashlib.sha256(json.dumps(list(row)).encode()).hexdigest()


def _connect(path: Path) -> sqlite3.Connection:
    import sqlite3

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise Damaged("it is not a file of this user's own")
        os.fchmod(descriptor, 0o600)  # its -wal and -shm are made with the same
    finally:
        os.close(descriptor)
    return sqlite3.connect(path, _BUSY_S, isolation_level=None, check_same_thread=False)
