"""Decide, record the intent, run, record the outcome. The only room that reaches a runtime."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .admission import Admission, Overloaded
from .calls import NO_PROGRAM, Caller, ToolReply, ToolRequest
from .plan import Plan, Planner, Refused, Ruling
from .registry.quota import Quota
from .registry.terms import Terms
from .sandboxes import NamedSandboxes
from .walls import Unprobed
from .way_out import SERVICE, Reach, WayOut

if TYPE_CHECKING:
    from collections.abc import Callable

    from mas_sandbox.audit.log import AuditLog
    from mas_sandbox.policy.model import Policy
    from mas_sandbox.runtimes.base import Runtime, Sandbox
    from mas_sandbox.runtimes.outcome import CallOutcome
    from mas_sandbox.tools.manifest import ToolSpec

    from .once import Once
    from .registry.record import Record
    from .registry.store import Store
    from .sandboxes import NamedSandbox
    from .walls import Wall, Walls

log = logging.getLogger(__name__)

Planned = TypeVar("Planned")

DRAIN_RETRY_S = 10
_QUOTA = Quota()
_HELD_PER_CALL = frozenset({Control.EGRESS, Control.BANDWIDTH, Control.NOFILE, Control.CPU_TIME})
"""Held around each call by the daemon or the toolrunner, where the runtime's probe says that
they can be; what is in force in the sandbox as a whole, the sandbox says itself."""


class Draining(Overloaded):
    """The daemon is shutting down and takes no new work."""

    def __init__(self) -> None:
        super().__init__("the daemon is shutting down", DRAIN_RETRY_S)


@dataclass(frozen=True, slots=True)
class Operation:
    """What may be done now. `plan.call`: the paths, environment and limits that it is under."""

    call_id: str
    named: NamedSandbox
    plan: Plan


class Broker:
    """One per daemon, shared by its front doors."""

    def __init__(
        self,
        *,
        walls: Walls,
        planner: Planner,
        admission: Admission,
        audit: AuditLog,
        store: Store,
        quota: Quota = _QUOTA,
    ) -> None:
        self.walls = walls
        self.admission = admission
        self.sandboxes = NamedSandboxes(self._way_out, audit, store, quota)
        self.draining = False
        self._planner = planner
        self._audit = audit
        self._store = store
        self._once: Once | None = None
        audit.on_failure = self.interrupt  # what cannot be recorded must not go on
        self._calls: set[asyncio.Task[ToolReply]] = set()

    @property
    def runtime(self) -> Runtime:
        """Where a call goes that asks for nothing stronger."""
        return self.walls.default.pool.runtime

    @property
    def once(self) -> Once:
        """What is asked with a key; behind an import that what comes without one need not pay
        for."""
        if self._once is None:
            from .once import Once

            self._once = Once(self._store)
        return self._once

    async def execute(self, caller: Caller, request: ToolRequest) -> ToolReply:
        """Carry one call to its end, which the reply tells whatever it was.

        Cancelling the caller ends the call: it is recorded as `interrupted`.
        Raises SandboxError where the request never became a call: `not_found` for its
        sandbox_id, `overloaded` (Overloaded, with retry_after), `interrupted` while
        it waited for its turn, `internal` when the audit log cannot be written.
        """
        self._refuse_while_draining()
        named = None
        if request.sandbox_id is not None:
            named = self.sandboxes.find(caller.name, request.sandbox_id)
        # A task of our own: a caller that goes away must not cut the records short.
        task = asyncio.create_task(self._settle(caller, request, named))
        self._calls.add(task)
        task.add_done_callback(self._forget)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            _cancel_once(task)
            raise

    async def create(
        self, caller: Caller, policy: Policy | None, idle_timeout_s: float
    ) -> NamedSandbox:
        """`open_sandbox`, with everything else left to the daemon."""
        return await self.open_sandbox(caller, policy, Terms(idle_timeout_s))

    async def open_sandbox(
        self, caller: Caller, policy: Policy | None, terms: Terms
    ) -> NamedSandbox:
        """Start a named sandbox. Raises SandboxError: `invalid_request` for a runtime or an
        image that this daemon does not have, `policy_denied`, `policy_unenforceable`,
        `overloaded`, or what the runtime's start raises."""
        self._refuse_while_draining()
        built = await self._planned(
            lambda: self._planner.sandbox(caller.policy, policy, terms.runtime)
        )
        runtime = built.wall.pool.runtime
        if terms.image is not None and not runtime.has_image(terms.image):
            raise SandboxError(
                ErrorCode.INVALID_REQUEST,
                f"image: runtime {runtime.name} has no {terms.image!r}; leave it out for its "
                "own, or ask for runtime microvm and an image that `mas-sandbox image ls` shows "
                "as current",
            )
        return await self.sandboxes.create(caller.name, built, policy, terms)

    async def destroy(self, caller: Caller, sandbox_id: str) -> None:
        """End a named sandbox. Raises SandboxError `not_found`."""
        await self.sandboxes.delete(caller.name, sandbox_id)

    async def resume(
        self, caller: Caller, sandbox_id: str, timeout_s: float | None = None
    ) -> Record:
        """Let a paused sandbox go on. Raises SandboxError as `NamedSandboxes.resume` does."""
        self._refuse_while_draining()
        return await self.sandboxes.resume(caller.name, sandbox_id, timeout_s)

    @asynccontextmanager
    async def operation(
        self, caller: Caller, sandbox_id: str, kind: str, args: Mapping[str, Any]
    ) -> AsyncIterator[Operation]:
        """Something other than a tool call in a named sandbox, while the block runs: decided
        by policy as the tool `kind` (out of `tools.sessions`) and recorded like a call.

        Raises SandboxError as `execute` does, and for what the policy refuses. What the
        block raises is recorded as its outcome; a cancelled block as `interrupted`.
        """
        self._refuse_while_draining()
        named = self.sandboxes.find(caller.name, sandbox_id)
        call_id = f"call_{secrets.token_hex(12)}"
        request = ToolRequest(kind, args, sandbox_id=sandbox_id)
        began = time.monotonic()
        try:
            plan = await self._planned(
                lambda: self._planner.operation(caller.policy, request, named)
            )
        except SandboxError as refusal:
            await self._intend(call_id, caller, request, _ruling_of(refusal))
            await self._end(call_id, named, began, refusal.code)
            raise
        await self._intend(call_id, caller, request, plan.ruling)
        code: ErrorCode | None = None
        try:
            _in_force(named.sandbox, plan)
            with named.in_use(), named.way_out.during(call_id, plan.built.reach):
                yield Operation(call_id, named, plan)
        except SandboxError as error:
            code = error.code
            raise
        except BaseException as error:
            cut_off = isinstance(error, asyncio.CancelledError | GeneratorExit)
            code = ErrorCode.INTERRUPTED if cut_off else ErrorCode.INTERNAL
            raise
        finally:
            if named.sandbox.channel.lost is not None:
                self.sandboxes.lost(named)
            await self._end(call_id, named, began, code)

    async def _end(
        self, call_id: str, named: NamedSandbox, began: float, code: ErrorCode | None
    ) -> None:
        await self._audit.outcome(
            call_id=call_id,
            status="ok" if code is None else "error",
            code=str(code or ""),
            exit_code=0 if code is None else NO_PROGRAM,
            cpu_ms=0,
            wall_ms=round((time.monotonic() - began) * 1000),
            isolation=str(named.built.wall.isolation),
            enforced=sorted(map(str, named.sandbox.enforced)),
        )

    def tools(self, caller: Caller) -> list[ToolSpec]:
        """The tools that the caller's policy does not rule out altogether."""
        return self._planner.tools(caller.policy)

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, let the calls that run finish within `grace_s`, then interrupt
        them, and all that goes on in named sandboxes: those are ended."""
        self.draining = True
        if self._calls:
            await asyncio.wait(self._calls, timeout=grace_s)
        self.interrupt()
        if self._calls:
            await asyncio.wait(self._calls)
        self.sandboxes.end_all()

    def interrupt(self) -> None:
        """End every call now."""
        for task in self._calls:
            _cancel_once(task)

    async def close(self) -> None:
        """Interrupt what runs, stop every sandbox, and close the audit log."""
        try:
            await self.drain(0)
        finally:
            if self._once is not None:
                await self._once.close()
            await self.sandboxes.close()
            await self.walls.close()
            await self._audit.close()

    def _refuse_while_draining(self) -> None:
        if self.draining:
            raise Draining

    def _forget(self, task: asyncio.Task[ToolReply]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # marked as retrieved: the caller may have gone

    async def _settle(
        self, caller: Caller, request: ToolRequest, named: NamedSandbox | None
    ) -> ToolReply:
        call_id = f"call_{secrets.token_hex(12)}"
        try:
            plan = await self._planned(lambda: self._planner.call(caller.policy, request, named))
        except SandboxError as refusal:
            await self._intend(call_id, caller, request, _ruling_of(refusal))
            return await self._conclude(
                call_id,
                self._failed(call_id, request, self.walls.default, refusal.code, refusal.message),
            )
        try:
            async with self.admission.slot(caller.name, plan.max_concurrent):
                await self._intend(call_id, caller, request, plan.ruling)
                reply = await self._attempt(call_id, caller, request, plan, named)
                return await self._conclude(call_id, reply)
        except asyncio.CancelledError:
            raise SandboxError(
                ErrorCode.INTERRUPTED, "the call was cut off before its turn; it had no effects"
            ) from None

    @staticmethod
    async def _planned(plan: Callable[[], Planned]) -> Planned:
        """What `plan` returns, once every wall that it considers has been tried."""
        while True:
            try:
                return plan()
            except Unprobed as unprobed:
                wall = unprobed.wall
            await wall.probed()

    def _way_out(self, principal: str, sandbox_id: str, reach: Reach) -> WayOut:
        return WayOut(self._audit, principal, sandbox_id, reach)

    async def _attempt(
        self,
        call_id: str,
        caller: Caller,
        request: ToolRequest,
        plan: Plan,
        named: NamedSandbox | None,
    ) -> ToolReply:
        """Run a call that may run; however it ends, that is a reply."""
        began = time.monotonic()
        wall = plan.built.wall
        enforced: tuple[Control, ...] = ()
        try:
            if _is_cancelled():
                raise asyncio.CancelledError
            async with self._sandbox(call_id, caller, plan, named) as sandbox:
                enforced = _in_force(sandbox, plan)
                request.begins()
                outcome = await sandbox.run(plan.call)
            return self._answered(call_id, request, wall, outcome, enforced)
        except SandboxError as error:
            code, message = error.code, error.message
        except asyncio.CancelledError:
            code = ErrorCode.INTERRUPTED
            message = "the call was cut off; it may or may not have had effects"
        except Exception:
            log.exception("a fault in the daemon ended call %s", call_id)
            code = ErrorCode.INTERNAL
            message = f"a fault in the daemon ended the call; its log tells more under {call_id}"
        wall_ms = (time.monotonic() - began) * 1000
        return self._failed(call_id, request, wall, code, message, wall_ms, enforced)

    @asynccontextmanager
    async def _sandbox(
        self, call_id: str, caller: Caller, plan: Plan, named: NamedSandbox | None
    ) -> AsyncIterator[Sandbox]:
        """The named sandbox, or one that no call has used and none will use again."""
        built = plan.built
        if named is None:
            pool = built.wall.pool
            sandbox = await pool.acquire(built.spec)
            try:
                way_out = self._way_out(caller.name, "", built.reach)
                sandbox.channel.serve(SERVICE, way_out.serve)
                with way_out.during(call_id, built.reach):
                    yield sandbox
            finally:
                pool.release(sandbox)
            return
        with named.in_use(), named.way_out.during(call_id, built.reach):
            try:
                yield named.sandbox
            finally:
                if named.sandbox.channel.lost is not None:
                    self.sandboxes.lost(named)

    def _answered(
        self,
        call_id: str,
        request: ToolRequest,
        wall: Wall,
        outcome: CallOutcome,
        enforced: tuple[Control, ...],
    ) -> ToolReply:
        return ToolReply(
            tool_call_id=request.tool_call_id or call_id,
            isolation=wall.isolation,
            code=outcome.code,
            message=outcome.message,
            result=_result(outcome),
            exit_code=outcome.exit_code,
            stderr=_text(outcome.stderr),
            truncated=outcome.truncated,
            cpu_ms=outcome.cpu_ms,
            mem_mb=outcome.mem_mb,
            wall_ms=outcome.wall_ms,
            enforced=enforced,
        )

    def _failed(
        self,
        call_id: str,
        request: ToolRequest,
        wall: Wall,
        code: ErrorCode,
        message: str,
        wall_ms: float = 0.0,
        enforced: tuple[Control, ...] = (),
    ) -> ToolReply:
        return ToolReply(
            tool_call_id=request.tool_call_id or call_id,
            isolation=wall.isolation,
            code=code,
            message=message,
            exit_code=NO_PROGRAM,
            wall_ms=wall_ms,
            enforced=enforced,
        )

    async def _intend(
        self, call_id: str, caller: Caller, request: ToolRequest, ruling: Ruling
    ) -> None:
        await self._audit.intent(
            call_id=call_id,
            principal=caller.name,
            sandbox_id=request.sandbox_id or "",
            tool=request.tool,
            args=request.args,
            decision={
                "action": ruling.action,
                "rule": ruling.rule,
                "reason": ruling.reason,
            },
            trace=_trace(request),
        )

    async def _conclude(self, call_id: str, reply: ToolReply) -> ToolReply:
        await self._audit.outcome(
            call_id=call_id,
            status=reply.status,
            code=str(reply.code or ""),
            exit_code=reply.exit_code,
            cpu_ms=reply.cpu_ms,
            wall_ms=round(reply.wall_ms),
            isolation=str(reply.isolation),
            enforced=[str(control) for control in reply.enforced],
        )
        return reply


def _in_force(sandbox: Sandbox, plan: Plan) -> tuple[Control, ...]:
    """Raises SandboxError `policy_unenforceable` where that is less than the plan needs."""
    held = sandbox.enforced | (plan.controls & _HELD_PER_CALL)
    if missing := sorted(plan.controls - held):
        raise SandboxError(
            ErrorCode.POLICY_UNENFORCEABLE,
            f"the sandbox came up without {', '.join(missing)}; run `mas-sandbox doctor`, "
            "which tells what this host lacks",
        )
    return tuple(sorted(held))


def _ruling_of(refusal: SandboxError) -> Ruling:
    if isinstance(refusal, Refused):
        return refusal.ruling
    return Ruling("deny", str(refusal.code), refusal.message)


def _trace(request: ToolRequest) -> dict[str, str]:
    named = {
        "tool_call_id": request.tool_call_id or "",
        "run_id": request.run_id,
        "step_id": request.step_id,
        "idempotency_key": request.idempotency_key,
    }
    return {name: value for name, value in named.items() if value}


def _result(outcome: CallOutcome) -> Any:
    """What the tool returned, or its stdout; nothing for a failure that printed nothing."""
    if outcome.has_value:
        return outcome.value
    if outcome.code is not None and not outcome.stdout:
        return None
    return _text(outcome.stdout)


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")


def _cancel_once(task: asyncio.Task[Any]) -> None:
    """A second cancel would reach the records that the first one left to write."""
    if not task.cancelling():
        task.cancel()


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
