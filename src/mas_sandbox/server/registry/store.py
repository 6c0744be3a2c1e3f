"""The records of named sandboxes, in one SQLite file that several daemons may share.

Everything blocking happens in a thread of the store's own. A record lives in its row as JSON,
beside the columns that are looked for, under a digest: a file that was damaged is refused, never
half believed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .database import Damaged, Database, digest_of
from .record import LIVING, Query, Record, State

FILE_NAME = "sandboxes.db"
KEPT_S = 24 * 3600
KEPT_ROWS = 1000
"""How long, and how many of one principal's, those that have ended are remembered."""
SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE sandboxes (
  id TEXT PRIMARY KEY, principal TEXT NOT NULL, instance TEXT NOT NULL, state TEXT NOT NULL,
  created_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL, body TEXT NOT NULL,
  digest TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX by_principal ON sandboxes (principal, created_ms DESC, id DESC);
"""
_APPLICATION_ID = 0x6D617362
_COLUMNS = ("id", "principal", "instance", "state", "created_ms", "changed_ms")
_LIVES = "state IN ('running', 'paused')"
_GONE = "state NOT IN ('running', 'paused')"


class Store:
    """Opened by `open`, or by the first that needs it; ended with `await close()`."""

    def __init__(self, directory: Path, instance: str, is_alive: Callable[[str], bool]) -> None:
        """`instance`: this daemon; `is_alive`: whether another one of `directory` still runs."""
        self.instance = instance
        self.is_alive = is_alive
        self.directory = directory
        self._database = Database(
            directory / FILE_NAME,
            application=_APPLICATION_ID,
            version=SCHEMA_VERSION,
            schema=_SCHEMA,
            begun_anew="which knows of no sandbox before it",
            ready=self._check,
        )

    def open(self) -> None:
        """Open or make the file, check all of it, and note which sandboxes died with their
        daemons. Blocks. Raises SandboxError `internal` with the mend for a file that is
        damaged, not ours, or of a newer version."""
        self._database.open()

    async def put(self, record: Record) -> None:
        """Write a record, in place of the one before. Raises SandboxError `internal`."""
        await self._database.run(lambda: self._put(record))

    async def find(self, principal: str, sandbox_id: str) -> Record | None:
        """The record, where it is this principal's. Raises SandboxError `internal`."""

        def find() -> Record | None:
            self._notice_the_dead()
            found = self._select("id = ? AND principal = ?", (sandbox_id, principal))
            return next(found, None)

        return await self._database.run(find)

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

        return await self._database.run(page)

    async def close(self) -> None:
        """Safe to call twice, and where nothing was opened."""
        await self._database.close()

    # What happens in the database's thread.

    def _check(self) -> None:
        for _ in self._select("TRUE", ()):
            pass  # each is compared with its digest
        self._notice_the_dead()
        with self._database.transaction():
            self._forget_old()

    def _put(self, record: Record) -> None:
        # It need not survive the power cut that its sandbox does not.
        with self._database.transaction():
            self._write(record)
            if record.state not in LIVING:
                self._forget_old(record.principal)

    def _write(self, record: Record) -> None:
        fields = asdict(record)
        row = [fields.pop(name) for name in _COLUMNS]
        row.append(json.dumps(fields, sort_keys=True))
        self._database.connection().execute(
            "INSERT OR REPLACE INTO sandboxes VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*row, digest_of(row)),
        )

    def _select(self, where: str, values: tuple[object, ...]) -> Iterator[Record]:
        text = f"SELECT * FROM sandboxes WHERE {where}"  # noqa: S608 - our words
        for *row, digest in self._database.connection().execute(text, values):
            if digest != digest_of(row):
                raise Damaged(f"the record of {row[0]!r} is not what was written")
            yield _record(row)

    def _notice_the_dead(self) -> None:
        """A sandbox dies with its daemon, and nobody resurrects it."""
        others = self._database.connection().execute(
            f"SELECT DISTINCT instance FROM sandboxes WHERE instance <> ? AND {_LIVES}",  # noqa: S608 - our words
            (self.instance,),
        )
        dead = [instance for (instance,) in others.fetchall() if not self.is_alive(instance)]
        if not dead:
            return
        with self._database.transaction():
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
        database = self._database.connection()
        oldest = time.time_ns() // 1_000_000 - KEPT_S * 1000
        database.execute(f"DELETE FROM sandboxes WHERE {_GONE} AND changed_ms < ?", (oldest,))  # noqa: S608 - our words
        if principal is not None:
            database.execute(
                "DELETE FROM sandboxes WHERE id IN (SELECT id FROM sandboxes WHERE "  # noqa: S608 - our words
                f"principal = ? AND {_GONE} ORDER BY changed_ms DESC LIMIT -1 OFFSET ?)",
                (principal, KEPT_ROWS),
            )


def _record(row: list[Any]) -> Record:
    *columns, body = row
    fields = dict(zip(_COLUMNS, columns, strict=True)) | json.loads(body)
    return Record(
        **fields | {"state": State(fields["state"]), "enforced": tuple(fields["enforced"])}
    )
