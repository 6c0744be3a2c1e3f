"""The records of named sandboxes, in one SQLite file that several daemons may share.

Everything blocking happens in a thread of the store's own. A record lives in its row as JSON,
beside the columns that are looked for, under a digest: a file that was damaged is refused, never
half believed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .record import LIVING, Query, Record, State

if TYPE_CHECKING:
    import sqlite3

FILE_NAME = "sandboxes.db"
KEPT_S = 24 * 3600
KEPT_ROWS = 1000
"""How long, and how many of one principal's, those that have ended are remembered."""
SCHEMA_VERSION = 1
_APPLICATION_ID = 0x6D617362
_BUSY_S = 5.0
_SCHEMA = """
CREATE TABLE sandboxes (
  id TEXT PRIMARY KEY, principal TEXT NOT NULL, instance TEXT NOT NULL, state TEXT NOT NULL,
  created_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL, body TEXT NOT NULL,
  digest TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX by_principal ON sandboxes (principal, created_ms DESC, id DESC);
"""
_COLUMNS = ("id", "principal", "instance", "state", "created_ms", "changed_ms")
_LIVES = "state IN ('running', 'paused')"
_GONE = "state NOT IN ('running', 'paused')"

Answer = TypeVar("Answer")


class Store:
    """Opened by `open`, or by the first that needs it; ended with `await close()`."""

    def __init__(self, directory: Path, instance: str, is_alive: Callable[[str], bool]) -> None:
        """`instance`: this daemon; `is_alive`: whether another one of `directory` still runs."""
        self.path = directory / FILE_NAME
        self.instance = instance
        self._is_alive = is_alive
        self._thread: ThreadPoolExecutor | None = None
        self._database: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open or make the file, check all of it, and note which sandboxes died with their
        daemons. Blocks. Raises SandboxError `internal` with the mend for a file that is
        damaged, not ours, or of a newer version."""
        self._worker().submit(self._guarded, self._opened).result()

    async def put(self, record: Record) -> None:
        """Write a record, in place of the one before. Raises SandboxError `internal`."""
        await self._run(lambda: self._put(record))

    async def find(self, principal: str, sandbox_id: str) -> Record | None:
        """The record, where it is this principal's. Raises SandboxError `internal`."""

        def find() -> Record | None:
            self._notice_the_dead()
            found = self._select("id = ? AND principal = ?", (sandbox_id, principal))
            return next(found, None)

        return await self._run(find)

    async def page(self, query: Query) -> list[Record]:
        """At most `limit` records. Raises SandboxError `internal`."""

        def page() -> list[Record]:
            self._notice_the_dead()
            where = f"principal = ? AND state IN ({', '.join('?' * len(query.states))})"
            values: list[object] = [query.principal, *query.states]
            for name, value in query.metadata.items():
                each = "SELECT 1 FROM json_each(body, '$.metadata') WHERE key = ? AND value = ?"
                where += f" AND EXISTS ({each})"
                values += [name, value]
            if query.after is not None:
                where += " AND (created_ms, id) < (?, ?)"
                values += query.after
            where += " ORDER BY created_ms DESC, id DESC LIMIT ?"
            return list(self._select(where, (*values, query.limit)))

        return await self._run(page)

    async def close(self) -> None:
        """Safe to call twice, and where nothing was opened."""
        if self._thread is not None:
            await self._run(self._close)
            self._thread.shutdown()
            self._thread = None

    async def _run(self, work: Callable[[], Answer]) -> Answer:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker(), self._guarded, work)

    def _worker(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "sandboxes")
        return self._thread

    # What happens in the store's thread.

    def _guarded(self, work: Callable[[], Answer]) -> Answer:
        import sqlite3

        try:
            return work()
        except (sqlite3.Error, OSError, _Damaged) as error:
            raise SandboxError(
                ErrorCode.INTERNAL,
                f"{self.path} cannot be used: {error}; mend the cause, or move the file aside "
                "with its -wal and -shm: a new one is begun, which knows of no sandbox before it",
            ) from error

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            database = _connect(self.path)
            try:
                _prepare(database)
                self._database = database
                for _ in self._select("TRUE", ()):
                    pass  # each is compared with its digest
                self._notice_the_dead()
                with self._transaction():
                    self._forget_old()
            except BaseException:
                self._database = None
                database.close()
                raise
        return self._database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _put(self, record: Record) -> None:
        self._opened()
        with self._transaction():
            self._write(record)
            if record.state not in LIVING:
                self._forget_old(record.principal)

    def _write(self, record: Record) -> None:
        fields = asdict(record)
        row = [fields.pop(name) for name in _COLUMNS]
        row.append(json.dumps(fields, sort_keys=True))
        self._opened().execute(
            "INSERT OR REPLACE INTO sandboxes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, _digest(row)),
        )

    def _select(self, where: str, values: tuple[object, ...]) -> Iterator[Record]:
        text = f"SELECT * FROM sandboxes WHERE {where}"  # noqa: S608 - our words
        for *row, digest in self._opened().execute(text, values):
            if digest != _digest(row):
                raise _Damaged(f"the record of {row[0]!r} is not what was written")
            yield _record(row)

    def _notice_the_dead(self) -> None:
        """A sandbox dies with its daemon, and nobody resurrects it."""
        others = self._opened().execute(
            f"SELECT DISTINCT instance FROM sandboxes WHERE instance <> ? AND {_LIVES}",  # noqa: S608 - our words
            (self.instance,),
        )
        dead = [instance for (instance,) in others.fetchall() if not self._is_alive(instance)]
        if not dead:
            return
        with self._transaction():
            for instance in dead:
                for record in list(self._select(f"instance = ? AND {_LIVES}", (instance,))):
                    self._write(
                        replace(
                            record,
                            state=State.INTERRUPTED,
                            reason="its daemon ended without a word",
                            changed_ms=time.time_ns() // 1_000_000,
                            expires_ms=None,
                        )
                    )

    def _forget_old(self, principal: str | None = None) -> None:
        database = self._opened()
        oldest = time.time_ns() // 1_000_000 - KEPT_S * 1000
        database.execute(f"DELETE FROM sandboxes WHERE {_GONE} AND changed_ms < ?", (oldest,))  # noqa: S608 - our words
        if principal is not None:
            database.execute(
                "DELETE FROM sandboxes WHERE id IN (SELECT id FROM sandboxes WHERE "  # noqa: S608 - our words
                f"principal = ? AND {_GONE} ORDER BY changed_ms DESC LIMIT -1 OFFSET ?)",
                (principal, KEPT_ROWS),
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        database = self._opened()
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")


class _Damaged(Exception):
    """The file is not what a daemon of ours left."""


def _connect(path: Path) -> sqlite3.Connection:
    import sqlite3

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise _Damaged("it is not a file of this user's own")
        os.fchmod(descriptor, 0o600)  # its -wal and -shm are made with the same
    finally:
        os.close(descriptor)
    return sqlite3.connect(path, _BUSY_S, isolation_level=None, check_same_thread=False)


def _prepare(database: sqlite3.Connection) -> None:
    """Raises `_Damaged` or sqlite3.Error for what is not whole, or not ours."""
    # A record need not survive the power cut that its sandbox does not.
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("BEGIN IMMEDIATE")  # two daemons may begin the file at once
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if version == 0 and tables == 0:
            for statement in _SCHEMA.split(";")[:-1]:
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            database.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        elif application != _APPLICATION_ID:
            raise _Damaged("it is a database of something else")
        elif version != SCHEMA_VERSION:
            raise _Damaged(
                f"it was written by another version of mas-sandboxd (schema {version}, this one "
                f"reads {SCHEMA_VERSION}): start that version"
            )
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _Damaged(f"it is damaged ({verdict})")
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _digest(row: list[Any]) -> str:
    return hashlib.sha256(json.dumps(row).encode()).hexdigest()


def _record(row: list[Any]) -> Record:
    *columns, body = row
    fields = dict(zip(_COLUMNS, columns, strict=True)) | json.loads(body)
    return Record(
        **fields | {"state": State(fields["state"]), "enforced": tuple(fields["enforced"])}
    )
