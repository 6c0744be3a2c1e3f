"""Named sandboxes: they live from one call to the next, until they are ended, idle or over."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .registry.named import NamedSandbox, WrongState
from .registry.quota import Quota
from .registry.record import Query, Record, State
from .registry.terms import OnTimeout, Terms
from .way_out import SERVICE

if TYPE_CHECKING:
    from mas_sandbox.audit.log import AuditLog
    from mas_sandbox.policy.model import Policy
    from mas_sandbox.runtimes.base import Sandbox, SandboxSpec

    from .plan import Built
    from .registry.store import Store
    from .way_out import Reach, WayOut

__all__ = ["NamedSandbox", "NamedSandboxes", "WrongState"]

log = logging.getLogger(__name__)

REAP_INTERVAL_S = 1.0
PAUSED_S = 7 * 24 * 3600.0
"""How long a sandbox may stay paused: it keeps its memory meanwhile."""
SHUT_DOWN = "the daemon was shut down"

Answer = TypeVar("Answer")


class NamedSandboxes:
    """Who owns which sandbox. Someone else's is as absent as one that never was.

    What becomes of each is in the audit log and in the store; both are written before the
    caller is told.
    """

    def __init__(
        self,
        way_out: Callable[[str, str, Reach], WayOut],
        audit: AuditLog,
        store: Store,
        quota: Quota,
    ) -> None:
        self._way_out = way_out
        self._audit = audit
        self._store = store
        self._quota = quota
        self._by_id: dict[str, NamedSandbox] = {}
        self._starting: list[tuple[str, SandboxSpec]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._reaper: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._by_id)

    async def create(
        self, owner: str, built: Built, policy: Policy | None, terms: Terms
    ) -> NamedSandbox:
        """Start a sandbox for `owner`.

        Raises SandboxError `overloaded` when `owner` has as much as it may have, what the
        runtime's start raises, and `internal` when it could not be recorded.
        """
        held = self._starting + [(each.owner, each.built.spec) for each in self._by_id.values()]
        self._quota.check(built.spec, [spec for whose, spec in held if whose == owner])
        claim = (owner, built.spec)
        self._starting.append(claim)
        try:
            return await self._start(owner, built, policy, terms)
        finally:
            self._starting.remove(claim)

    async def _start(
        self, owner: str, built: Built, policy: Policy | None, terms: Terms
    ) -> NamedSandbox:
        name = f"sb_{secrets.token_hex(16)}"  # it is part of host names, which have no case
        try:
            await self._note("create", name, owner, built)
            sandbox = await built.wall.pool.acquire(built.spec)
        except BaseException as error:
            reason = str(error.code) if isinstance(error, SandboxError) else "interrupted"
            self._spawn(self._note("end", name, owner, built, reason))
            raise
        named = self._named(name, owner, built, sandbox, policy, terms)
        try:
            if self._closed:
                raise SandboxError(ErrorCode.INTERRUPTED, "the daemon is shutting down")
            await self._put(named)
        except BaseException:  # its creator would never learn its name
            self.end(named, State.ENDED, "its creation was interrupted")
            raise
        return named

    def _named(
        self,
        name: str,
        owner: str,
        built: Built,
        sandbox: Sandbox,
        policy: Policy | None,
        terms: Terms,
    ) -> NamedSandbox:
        way_out = self._way_out(owner, name, built.reach)
        sandbox.channel.serve(SERVICE, way_out.serve)
        named = NamedSandbox(name, owner, built, sandbox, way_out, policy, terms)
        self._by_id[name] = named
        if self._reaper is None and not self._closed:
            self._reaper = asyncio.create_task(self._reap())
        return named

    def find(self, owner: str, sandbox_id: str) -> NamedSandbox:
        """Raises SandboxError `not_found`, in the same words for absent and for foreign."""
        named = self._by_id.get(sandbox_id)
        if named is None or named.owner != owner:
            raise _no_such_sandbox()
        return named

    async def about(self, owner: str, sandbox_id: str) -> Record:
        """What is known of a sandbox, ended or not. Raises SandboxError as `find` does."""
        record = await self._store.find(owner, sandbox_id)
        if record is None:
            raise _no_such_sandbox()
        return record

    async def page(self, query: Query) -> list[Record]:
        """Raises SandboxError `internal` when the store cannot be read."""
        return await self._store.page(query)

    async def extend(self, owner: str, sandbox_id: str, timeout_s: float) -> Record:
        """Let it live for so long from now on. Raises SandboxError `not_found`."""
        return await self._to_the_end(self._extend(self.find(owner, sandbox_id), timeout_s))

    async def pause(self, owner: str, sandbox_id: str) -> Record:
        """Stop all that runs in it; nothing where it is paused already.

        Raises SandboxError: `not_found`, WrongState while calls run, and as
        `runtimes.base.Sandbox.pause` does.
        """
        return await self._to_the_end(self._pause(self.find(owner, sandbox_id), ""))

    async def resume(self, owner: str, sandbox_id: str, timeout_s: float | None = None) -> Record:
        """Let it go on, for `timeout_s` where that is given; nothing where it runs.

        Raises SandboxError: `not_found`, and as `runtimes.base.Sandbox.resume` does.
        """
        return await self._to_the_end(self._resume(self.find(owner, sandbox_id), timeout_s))

    async def delete(self, owner: str, sandbox_id: str) -> None:
        """End it, with what runs in it. Raises SandboxError `not_found`."""
        named = self.find(owner, sandbox_id)
        await self._to_the_end(self._forget(named, State.ENDED, "deleted"))

    def end(self, named: NamedSandbox, state: State, reason: str) -> None:
        """Forget a sandbox and stop it; calls that run in it end."""
        if named.id in self._by_id:
            self._spawn(self._forget(named, state, reason))

    def lost(self, named: NamedSandbox) -> None:
        """End a sandbox whose toolrunner is gone."""
        why = named.sandbox.channel.lost
        self.end(named, State.INTERRUPTED, "" if why is None else f"{why.code}: {why.message}")

    def end_all(self) -> None:
        """End them, and begin none any more."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        for named in list(self._by_id.values()):
            self.end(named, State.INTERRUPTED, SHUT_DOWN)

    async def close(self) -> None:
        """`end_all`; the pool's `close` waits until they are gone."""
        self.end_all()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._store.close()

    async def _extend(self, named: NamedSandbox, timeout_s: float) -> Record:
        async with named.changing:
            self._refuse_ended(named)
            named.extend(timeout_s)
            await self._note("extend", named.id, named.owner, named.built)
            return await self._put(named)

    async def _pause(self, named: NamedSandbox, reason: str) -> Record:
        async with named.changing:
            self._refuse_ended(named)
            if named.paused_at is None:
                await named.pause()
                await self._note("pause", named.id, named.owner, named.built, reason)
            return await self._put(named, reason)

    async def _resume(self, named: NamedSandbox, timeout_s: float | None) -> Record:
        async with named.changing:
            self._refuse_ended(named)
            if timeout_s is not None:
                named.extend(timeout_s)
            if named.paused_at is not None:
                await self._note("resume", named.id, named.owner, named.built)
                await named.resume()
            return await self._put(named)

    async def _put(self, named: NamedSandbox, reason: str = "") -> Record:
        self._refuse_ended(named)
        record = named.record(self._store.instance, None, reason)
        await self._store.put(record)
        return record

    def _forget(self, named: NamedSandbox, state: State, reason: str) -> Coroutine[Any, Any, None]:
        """At once; what is returned records it."""
        del self._by_id[named.id]
        named.ended = True
        named.sandbox.channel.close()  # what runs learns that it was ended, before it is lost
        named.built.wall.pool.release(named.sandbox)
        return self._record_end(named, state, reason)

    async def _record_end(self, named: NamedSandbox, state: State, reason: str) -> None:
        async with named.changing:  # whatever was being recorded of it comes before
            await self._store.put(named.record(self._store.instance, state, reason))
        await self._note("end", named.id, named.owner, named.built, reason)

    async def _note(
        self, action: str, sandbox_id: str, owner: str, built: Built, reason: str = ""
    ) -> None:
        await self._audit.sandbox(
            action=action,
            sandbox_id=sandbox_id,
            principal=owner,
            runtime=built.wall.name,
            reason=reason,
        )

    @staticmethod
    def _refuse_ended(named: NamedSandbox) -> None:
        if named.ended:
            raise _no_such_sandbox()

    async def _to_the_end(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """What is begun is finished and recorded, whether or not its caller stays."""
        return await asyncio.shield(self._spawn(work))

    def _spawn(self, work: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._settled)
        return task

    def _settled(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            log.info("a change of a sandbox failed: %s", error)

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(REAP_INTERVAL_S)
            now = asyncio.get_running_loop().time()
            for named in list(self._by_id.values()):
                self._look_at(named, now)

    def _look_at(self, named: NamedSandbox, now: float) -> None:
        """End or pause what has lived, or lain unused, for long enough."""
        if named.sandbox.channel.lost is not None:
            if not named.uses:
                self.lost(named)
            return
        if named.paused_at is not None:
            if now - named.paused_at > PAUSED_S:
                self.end(named, State.ENDED, "paused for too long")
            return
        if named.is_over(now):
            reason = "timeout"
        elif named.is_idle(now):
            reason = "idle"
        else:
            return
        if named.terms.on_timeout is OnTimeout.KILL:
            self.end(named, State.ENDED, reason)
        elif not named.changing.locked():  # else somebody's change comes first
            named.over = named.is_over(now)
            self._spawn(self._pause_or_end(named, reason))

    async def _pause_or_end(self, named: NamedSandbox, reason: str) -> None:
        try:
            await self._pause(named, reason)
        except WrongState:
            return  # a call runs; the next look tries again
        except SandboxError as error:
            if not named.ended:
                self.end(named, State.ENDED, f"{reason}, and not paused: {error.message}")


def _no_such_sandbox() -> SandboxError:
    return SandboxError(
        ErrorCode.NOT_FOUND,
        "no such sandbox; it was never created, was destroyed, or was idle too long",
    )
