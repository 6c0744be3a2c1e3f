"""What was begun under an idempotency key, and what was answered, in one SQLite file that
several daemons may share.

A key is somebody's for a day from its first use. Within it no key is forgotten: where there is
no room, new keys are refused, and of answers the oldest are let go, never what they were to.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import astuple, dataclass, replace
from enum import Enum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from .database import Damaged, Database, digest_of

if TYPE_CHECKING:
    import sqlite3

FILE_NAME = "answers.db"
KEPT_S = 24 * 3600
MOST_KEYS = 100_000
MOST_BYTES = 64 * 1024 * 1024
MOST_OF_ONE = 1024 * 1024
"""How many keys and bytes of answers are kept of one principal, and bytes of one answer."""
_SCHEMA = """
CREATE TABLE answers (
  principal TEXT NOT NULL, key TEXT NOT NULL, fingerprint TEXT NOT NULL,
  instance TEXT NOT NULL, begun_ms INTEGER NOT NULL, state TEXT NOT NULL, body TEXT NOT NULL,
  digest TEXT NOT NULL, bytes INTEGER NOT NULL, UNIQUE (principal, key));
CREATE INDEX by_age ON answers (begun_ms);
CREATE INDEX by_principal ON answers (principal, begun_ms, bytes);
"""
_APPLICATION_ID = 0x6D61736B
_BEGUN, _DONE, _LET_GO = "begun", "done", "let go"


class Standing(Enum):
    """Of a key, for a request that comes with it."""

    NEW = auto()
    """It is the request's from now on."""
    OTHERS = auto()
    """A request with another body had it."""
    RUNNING = auto()
    """The same request runs, in another daemon that lives."""
    INTERRUPTED = auto()
    """It was begun, and whoever began it ended, or could not write its answer down."""
    DONE = auto()
    LET_GO = auto()
    """It was answered, and the answer was too large to keep, or made room for later ones."""
    NO_ROOM = auto()
    """The principal has as many as it may have."""


@dataclass(frozen=True, slots=True)
class Found:
    """`answer`: where it is `DONE`; `retry_after_s`: where there is `NO_ROOM`."""

    standing: Standing
    answer: str = ""
    retry_after_s: int = 0


@dataclass(frozen=True, slots=True)
class _Row:
    principal: str
    key: str
    fingerprint: str
    instance: str
    begun_ms: int
    state: str
    body: str = ""


class Answers:
    """Opened by the first that needs it; ended with `await close()`. Everything in it raises
    SandboxError `internal` where the file cannot be used."""

    def __init__(self, directory: Path, instance: str, is_alive: Callable[[str], bool]) -> None:
        """`instance`: this daemon; `is_alive`: whether another one of `directory` still runs."""
        self._instance = instance
        self._is_alive = is_alive
        self._database = Database(
            directory / FILE_NAME,
            application=_APPLICATION_ID,
            version=1,
            schema=_SCHEMA,
            begun_anew="in which every idempotency key is new",
        )

    async def begin(self, principal: str, key: str, fingerprint: str) -> Found:
        """What is to be done with a request. Where that is `NEW` it is on disk that it was
        begun; `finish` or `forget` follows."""
        return await self._database.run(lambda: self._begin(principal, key, fingerprint))

    async def finish(self, principal: str, key: str, answer: str) -> None:
        """Keep the answer to what was begun here."""
        await self._database.run(lambda: self._finish(principal, key, answer))

    async def forget(self, principal: str, key: str) -> None:
        """What was begun here was not done: the key is new again."""
        await self._database.run(lambda: self._forget(principal, key))

    async def close(self) -> None:
        """Safe to call twice, and where nothing was opened."""
        await self._database.close()

    # What happens in the database's thread.

    def _begin(self, principal: str, key: str, fingerprint: str) -> Found:
        now_ms = time.time_ns() // 1_000_000
        # What was begun is never begun again, whatever happens to the host.
        with self._database.transaction(lasting=True) as database:
            database.execute(
                "DELETE FROM answers WHERE begun_ms < ? AND (state <> ? OR instance <> ?)",
                (now_ms - KEPT_S * 1000, _BEGUN, self._instance),
            )
            if (row := _row(database, principal, key)) is not None:
                return self._standing(row, fingerprint)
            (keys, oldest_ms) = database.execute(
                "SELECT count(*), min(begun_ms) FROM answers WHERE principal = ?", (principal,)
            ).fetchone()
            if keys >= MOST_KEYS:
                left_s = KEPT_S - (now_ms - oldest_ms) // 1000
                return Found(Standing.NO_ROOM, retry_after_s=max(1, left_s))
            _write(database, _Row(principal, key, fingerprint, self._instance, now_ms, _BEGUN))
        return Found(Standing.NEW)

    def _standing(self, row: _Row, fingerprint: str) -> Found:
        if row.fingerprint != fingerprint:
            return Found(Standing.OTHERS)
        if row.state == _DONE:
            return Found(Standing.DONE, row.body)
        if row.state == _LET_GO:
            return Found(Standing.LET_GO)
        if row.instance != self._instance and self._is_alive(row.instance):
            return Found(Standing.RUNNING)
        return Found(Standing.INTERRUPTED)

    def _finish(self, principal: str, key: str, answer: str) -> None:
        with self._database.transaction() as database:
            row = _row(database, principal, key)
            if row is None or (row.state, row.instance) != (_BEGUN, self._instance):
                return
            state, body = (_DONE, answer) if len(answer) <= MOST_OF_ONE else (_LET_GO, "")
            _write(database, replace(row, state=state, body=body))
            self._make_room(database, principal)

    @staticmethod
    def _make_room(database: sqlite3.Connection, principal: str) -> None:
        (held,) = database.execute(
            "SELECT sum(bytes) FROM answers WHERE principal = ?", (principal,)
        ).fetchone()
        if held <= MOST_BYTES:
            return
        oldest = database.execute(
            "SELECT key, bytes FROM answers WHERE principal = ? AND bytes > 0 ORDER BY begun_ms",
            (principal,),
        ).fetchall()
        for key, size in oldest:
            if held <= MOST_BYTES:
                return
            row = _row(database, principal, key)
            assert row is not None
            _write(database, replace(row, state=_LET_GO, body=""))
            held -= size

    def _forget(self, principal: str, key: str) -> None:
        with self._database.transaction() as database:
            database.execute(
                "DELETE FROM answers WHERE principal = ? AND key = ? AND state = ? "
                "AND instance = ?",
                (principal, key, _BEGUN, self._instance),
            )


def _row(database: sqlite3.Connection, principal: str, key: str) -> _Row | None:
    found = database.execute(
        "SELECT principal, key, fingerprint, instance, begun_ms, state, body, digest "
        "FROM answers WHERE principal = ? AND key = ?",
        (principal, key),
    ).fetchone()
    if found is None:
        return None
    *fields, digest = found
    if digest != digest_of(fields):
        raise Damaged(f"what is kept of the idempotency key {key!r} is not what was written")
    return _Row(*fields)


def _write(database: sqlite3.Connection, row: _Row) -> None:
    fields = astuple(row)
    database.execute(
        "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*fields, digest_of(fields), len(row.body)),
    )
