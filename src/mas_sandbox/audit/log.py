"""The audit log of one daemon: intents before calls run, outcomes after.

Callers that arrive together share one write and one sync, done in a thread of the
log's own so that the event loop never waits for a disk.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from . import signing
from .journal import MOST, DamagedLog, Journal
from .key import args_hmac, load_key, secret
from .presence import Presence, is_alive, the_dead
from .records import timestamp
from .reserve import Reserve
from .storage import Storage

logger = logging.getLogger(__name__)

LOG_NAME = "audit.jsonl"
KEY_NAME = "audit.key"
PRESENCE = "daemons"
_RESERVE = ".reserve"
_ENDS = frozenset({"outcome", "stop"})
"""Kinds of record that are still written when the disk is full, from the reserve."""
_CHECKPOINT_EVERY = 1000
"""Records."""


@dataclass(slots=True)
class _Entry:
    """A record that waits to be written. `args` of an intent, hashed by the writer."""

    fields: dict[str, Any]
    written: asyncio.Future[None]
    args: Mapping[str, Any] | None = None
    error: SandboxError | None = None


class AuditLog:
    """Open with `AuditLog.open`, end with `await close()`.

    The first failure to write or sync is final: later records are refused, because
    what a disk did with earlier ones is not known then. A disk that is full is told of
    earlier: nothing new is recorded, and so nothing new is run, while a reserve holds the
    outcomes of what runs.
    """

    on_failure: Callable[[], None] | None = None
    """Called once, when outcomes can no longer be recorded."""

    def __init__(
        self,
        journal: Journal,
        presence: Presence,
        reserve: Reserve,
        key: bytes,
        instance: str,
        record_args: bool,
        sign_end: bool,
    ) -> None:
        self.path = journal.path
        self.instance = instance
        self._journal = journal
        self._presence = presence
        self._reserve = reserve
        self._key = key
        self._record_args = record_args
        self._sign_end = sign_end
        self._head = (journal.sequence, journal.digest)
        self._checkpoint_due = False
        self._writer = ThreadPoolExecutor(1, "audit")
        self._pending: list[_Entry] = []
        self._writing = False
        self._closed = False
        self._failure = ""
        self._full = False
        self._open_calls: dict[str, int] = {}  # call id -> offset of its intent, oldest first

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        record_args: bool = False,
        sign_end: bool = False,
        max_bytes: int = MOST,
        storage: Storage | None = None,
    ) -> Self:
        """Open or begin the log in `directory` (made, 0700, where it is missing).

        Only the log's end is read. Calls that a dead daemon left open get an outcome
        with code `interrupted`; only then more is read, from that daemon's start.
        `record_args`: write arguments in plain JSON beside their HMAC; `sign_end`: sign a
        checkpoint when closed too, which takes longer than a call; `max_bytes`: of one file
        of the log, before the next is begun. Raises SandboxError(internal) where the log
        cannot be written or was damaged.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            journal = Journal(directory / LOG_NAME, storage or Storage(), max_bytes)
            return cls._opened(directory, journal, record_args, sign_end)
        except (OSError, DamagedLog) as error:
            raise SandboxError(
                ErrorCode.INTERNAL, f"audit log in {directory} cannot be opened: {error}"
            ) from error

    @classmethod
    def _opened(cls, directory: Path, journal: Journal, record_args: bool, sign_end: bool) -> Self:
        """Closes the journal where it raises."""
        daemons = directory / PRESENCE
        instance = secrets.token_hex(8)
        try:
            daemons.mkdir(mode=0o700, exist_ok=True)
            with journal.locked():
                key = load_key(directory / KEY_NAME)
                secret(directory / signing.KEY_NAME, 0)  # refused now rather than when it signs
                stamp = {"time": timestamp(), "daemon": instance}
                recovered = journal.ready(stamp)
                dead = list(the_dead(daemons))
                for _, name, offset in dead:
                    recovered += _interrupted(journal, name, offset)
                start = {"kind": "start", "record_args": record_args}
                batch = [fields | stamp for fields in [*recovered, start]]
                # The start alone may wait for the first intent's sync.
                journal.append(batch, sync=bool(recovered))
                for path, _, _ in dead:
                    path.unlink(missing_ok=True)
                    path.with_suffix(_RESERVE).unlink(missing_ok=True)
                presence = Presence(daemons, instance, journal.end)
                reserve = Reserve(daemons / f"{instance}{_RESERVE}")
        except BaseException:
            journal.close()
            raise
        return cls(journal, presence, reserve, key, instance, record_args, sign_end)

    async def intent(
        self,
        *,
        call_id: str,
        principal: str,
        sandbox_id: str,
        tool: str,
        args: Mapping[str, Any],
        decision: Mapping[str, str],
        trace: Mapping[str, str],
    ) -> None:
        """Record that a call was decided; returns when the record is on disk, and not before
        if it is cancelled: that is only noticed afterwards, by `asyncio.Task.cancelling`.

        `call_id` is unique in this daemon; `decision`: action, rule and reason. Raises
        SandboxError: `internal` once the log has failed, `invalid_request` for args
        that are not JSON. A call whose intent was not recorded must not run.
        """
        fields = {
            "kind": "intent",
            "call_id": call_id,
            "principal": principal,
            "sandbox_id": sandbox_id,
            "tool": tool,
            "decision": dict(decision),
            "trace": dict(trace),
        }
        await _to_the_end(self._taken(fields, args))

    async def outcome(
        self,
        *,
        call_id: str,
        status: str,
        code: str,
        exit_code: int,
        cpu_ms: int,
        wall_ms: int,
        isolation: str,
        enforced: Sequence[str],
        output_bytes: int | None = None,
    ) -> None:
        """Record how a call ended; returns when the record is on disk, as `intent` does.

        Raises SandboxError(internal) once the log has failed; the next daemon then
        records the call as interrupted.
        """
        fields = {
            "kind": "outcome",
            "call_id": call_id,
            "intended_by": self.instance,
            "status": status,
            "code": code,
            "exit_code": exit_code,
            "cpu_ms": cpu_ms,
            "wall_ms": wall_ms,
            "output_bytes": output_bytes,
            "isolation": isolation,
            "enforced": list(enforced),
        }
        await _to_the_end(self._taken(fields))

    async def connection(
        self,
        *,
        principal: str,
        sandbox_id: str,
        call_ids: Sequence[str],
        protocol: str,
        host: str,
        port: int,
        method: str,
        path: str,
        address: str,
        decision: Mapping[str, str],
    ) -> None:
        """Record that a connection out of a sandbox was decided; returns when the record is
        on disk. A connection whose record could not be written must not be made.

        `call_ids`: the calls that ran in the sandbox then; `address`: what is dialled,
        empty for none; `decision`: as in `intent`. Raises SandboxError as `intent` does.
        """
        fields = {
            "kind": "connection",
            "principal": principal,
            "sandbox_id": sandbox_id,
            "call_ids": list(call_ids),
            "protocol": protocol,
            "host": host,
            "port": port,
            "method": method,
            "path": path,
            "address": address,
            "decision": dict(decision),
        }
        await self._record(fields)

    async def sandbox(
        self, *, action: str, sandbox_id: str, principal: str, runtime: str, reason: str = ""
    ) -> None:
        """Record what becomes of a named sandbox; returns when the record is on disk.

        `action`: `create`, written before it is started, `extend`, `pause`, `resume` or `end`,
        the last also of one that did not start; `reason`: why it ended or was paused. Raises
        SandboxError as `intent` does.
        """
        fields = {
            "kind": "sandbox",
            "action": action,
            "sandbox_id": sandbox_id,
            "principal": principal,
            "runtime": runtime,
            "reason": reason,
        }
        await self._record(fields)

    def is_alive(self, instance: str) -> bool:
        """Whether the daemon that records here under this name still runs. Blocks."""
        return is_alive(self.path.parent / PRESENCE, instance)

    async def close(self) -> None:
        """Write what is pending and a `stop` record, and leave. Safe to call twice."""
        if self._closed:
            return
        try:
            with suppress(SandboxError):  # a log that failed before has told its callers
                await self._record({"kind": "stop"}, last=True)
                if self._sign_end:
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(self._writer, self._sign)
        finally:
            self._closed = True
            self._writer.shutdown()
            self._reserve.give_up()
            self._presence.leave(finished=not self._open_calls and not self._failure)
            self._journal.close()

    async def _record(self, fields: dict[str, Any], *, last: bool = False) -> None:
        await self._taken(fields, last=last)

    def _taken(
        self, fields: dict[str, Any], args: Mapping[str, Any] | None = None, *, last: bool = False
    ) -> asyncio.Future[None]:
        """Done when the record is on disk."""
        if self._failure or self._closed or (self._full and fields["kind"] not in _ENDS):
            raise self._refusal()
        self._closed = last  # nothing comes behind a stop
        loop = asyncio.get_running_loop()
        fields |= {"time": timestamp(), "daemon": self.instance}
        entry = _Entry(fields, loop.create_future(), args)
        if not self._pending and not self._writing:
            # Whoever else is ready to run in this turn of the loop shares the sync.
            loop.call_soon(self._write_pending, loop)
        self._pending.append(entry)
        return entry.written

    def _refusal(self) -> SandboxError:
        why = self._failure or ("its disk is full" if self._full else "it is closed")
        return SandboxError(
            ErrorCode.INTERNAL,
            f"audit log cannot be written: {why}; calls are refused until the cause is mended "
            "and the daemon is started again",
        )

    def _write_pending(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._pending = self._pending, []
        self._writing = True
        self._writer.submit(self._write, loop, batch)

    def _write(self, loop: asyncio.AbstractEventLoop, batch: list[_Entry]) -> None:
        """In the writer's thread."""
        error: BaseException | None = None
        try:
            self._commit(batch)
        except BaseException as raised:  # noqa: BLE001 # whatever it is, the loop is told
            error = raised
        loop.call_soon_threadsafe(self._settle, loop, batch, error)

    def _settle(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[_Entry],
        error: BaseException | None,
    ) -> None:
        self._writing = False
        if error is not None:
            self._failure = str(error) or type(error).__name__
            batch, self._pending = batch + self._pending, []
            if self.on_failure is not None:
                self.on_failure()
        for entry in batch:
            if entry.written.done():
                continue  # its caller was cancelled
            if error is not None:
                refusal = self._refusal()
                refusal.__cause__ = error
                entry.written.set_exception(refusal)
            elif entry.error is not None:
                entry.written.set_exception(entry.error)
            else:
                entry.written.set_result(None)
        if self._checkpoint_due:
            self._checkpoint_due = False
            self._writer.submit(self._sign)
        if self._pending:
            self._write_pending(loop)

    def _commit(self, batch: list[_Entry]) -> None:
        """Write a batch; in the writer's thread. Raises OSError or DamagedLog."""
        for entry in batch:
            self._add_args(entry)
        self._presence.keep()
        with self._journal.locked():
            stamp = {"time": timestamp(), "daemon": self.instance}
            recovered = [fields | stamp for fields in self._journal.ready(stamp)]
            before = self._journal.sequence
            try:
                sound = _sound(batch)
                offsets = self._journal.append(recovered + sound)
            except OSError as error:
                if not self._reserve.serves(error):
                    raise
                self._full = True
                self._refuse_the_new(batch)
                sound = _sound(batch)
                offsets = self._journal.append(recovered + sound)
        for fields, offset in zip(sound, offsets[len(recovered) :], strict=True):
            if fields["kind"] == "intent":
                self._open_calls[fields["call_id"]] = offset
            elif fields["kind"] == "outcome":
                self._open_calls.pop(fields["call_id"], None)
        self._presence.moved(next(iter(self._open_calls.values()), self._journal.end))
        after = self._journal.sequence
        self._head = after, self._journal.digest
        if before // _CHECKPOINT_EVERY < after // _CHECKPOINT_EVERY or any(
            fields["kind"] == "continued" for fields in recovered
        ):
            self._checkpoint_due = True

    def _sign(self) -> None:
        """In the writer's thread. The log is whole without a checkpoint, so calls go on."""
        from . import checkpoints  # most daemons end before the first is due

        try:
            checkpoints.sign(self.path, *self._head)
        except (OSError, ValueError) as error:
            logger.error("no checkpoint of the audit log could be signed: %s", error)

    def _refuse_the_new(self, batch: list[_Entry]) -> None:
        for entry in batch:
            if entry.fields["kind"] not in _ENDS:
                entry.error = self._refusal()

    def _add_args(self, entry: _Entry) -> None:
        if entry.args is None:
            return
        try:
            entry.fields["args_hmac"] = args_hmac(self._key, entry.args)
            if self._record_args:
                entry.fields["args_json"] = strict_json.dumps(entry.args).decode("ascii")
        except (ValueError, RecursionError) as error:
            entry.error = SandboxError(ErrorCode.INVALID_REQUEST, f"args: {error}")


async def _to_the_end(written: asyncio.Future[None]) -> None:
    try:
        await asyncio.shield(written)
    except asyncio.CancelledError:
        await written


def _sound(batch: list[_Entry]) -> list[dict[str, Any]]:
    return [entry.fields for entry in batch if entry.error is None]


def _interrupted(journal: Journal, instance: str, offset: int) -> list[dict[str, Any]]:
    """Outcomes for the calls that a dead daemon left open."""
    calls: dict[str, None] = {}
    for record in journal.records_from(offset):
        match record:
            case {"kind": "intent", "daemon": daemon, "call_id": call} if daemon == instance:
                calls[call] = None
            case {"kind": "outcome", "intended_by": by, "call_id": call} if by == instance:
                calls.pop(call, None)
    return [
        {
            "kind": "outcome",
            "call_id": call_id,
            "intended_by": instance,
            "status": "error",
            "code": str(ErrorCode.INTERRUPTED),
            "exit_code": None,
            "cpu_ms": None,
            "wall_ms": None,
            "output_bytes": None,
            "isolation": None,
            "enforced": [],
        }
        for call_id in calls
    ]
