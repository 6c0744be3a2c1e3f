"""Decide, record the intent, run, record the outcome. The only room that reaches a runtime."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .admission import Admission, Overloaded
from .calls import NO_PROGRAM, Caller, ToolReply, ToolRequest
from .plan import Plan, Planner, Refused, Ruling, unenforceable

if TYPE_CHECKING:
    from mas_sandbox.audit.log import AuditLog
    from mas_sandbox.policy.model import Policy
    from mas_sandbox.runtimes.base import Probe, Runtime, Sandbox
    from mas_sandbox.runtimes.outcome import CallOutcome
    from mas_sandbox.runtimes.pool import Pool
    from mas_sandbox.tools.manifest import ToolSpec

    from .sandboxes import NamedSandbox, NamedSandboxes

log = logging.getLogger(__name__)

DRAIN_RETRY_S = 10


class Draining(Overloaded):
    """The daemon is shutting down and takes no new work."""

    def __init__(self) -> None:
        super().__init__("the daemon is shutting down", DRAIN_RETRY_S)


class Broker:
    """One per daemon, shared by its front doors."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        probe: Probe,
        planner: Planner,
        pool: Pool,
        admission: Admission,
        sandboxes: NamedSandboxes,
        audit: AuditLog,
    ) -> None:
        self.runtime = runtime
        self.admission = admission
        self.sandboxes = sandboxes
        self.draining = False
        self._probe = probe
        self._planner = planner
        self._pool = pool
        self._audit = audit
        self._calls: set[asyncio.Task[ToolReply]] = set()

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
        """Start a named sandbox. Raises SandboxError: `policy_denied`,
        `policy_unenforceable`, `overloaded`, or what the runtime's start raises."""
        self._refuse_while_draining()
        spec = self._planner.sandbox(caller.policy, policy)
        return await self.sandboxes.create(caller.name, spec, policy, idle_timeout_s)

    def destroy(self, caller: Caller, sandbox_id: str) -> None:
        """End a named sandbox. Raises SandboxError `not_found`."""
        self.sandboxes.end(self.sandboxes.find(caller.name, sandbox_id))

    def tools(self, caller: Caller) -> list[ToolSpec]:
        """The tools that the caller's policy does not rule out altogether."""
        return self._planner.tools(caller.policy)

    async def drain(self, grace_s: float) -> None:
        """Take nothing new, let what runs finish within `grace_s`, then interrupt it."""
        self.draining = True
        if self._calls:
            await asyncio.wait(self._calls, timeout=grace_s)
        self.interrupt()
        if self._calls:
            await asyncio.wait(self._calls)

    def interrupt(self) -> None:
        """End every call now."""
        for task in self._calls:
            _cancel_once(task)

    async def close(self) -> None:
        """Interrupt what runs, stop every sandbox, and close the audit log."""
        try:
            await self.drain(0)
        finally:
            self.sandboxes.close()
            await self._pool.close()
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
            plan = self._planner.call(caller.policy, request, named)
        except SandboxError as refusal:
            await self._intend(call_id, caller, request, _ruling_of(refusal))
            return await self._conclude(
                call_id, self._failed(call_id, request, refusal.code, refusal.message)
            )
        try:
            async with self.admission.slot(caller.name, plan.max_concurrent):
                await self._intend(call_id, caller, request, plan.ruling)
                reply = await self._attempt(call_id, request, plan, named)
                return await self._conclude(call_id, reply)
        except asyncio.CancelledError:
            raise SandboxError(
                ErrorCode.INTERRUPTED, "the call was cut off before its turn; it had no effects"
            ) from None

    async def _attempt(
        self, call_id: str, request: ToolRequest, plan: Plan, named: NamedSandbox | None
    ) -> ToolReply:
        """Run a call that may run; however it ends, that is a reply."""
        began = time.monotonic()
        enforced: tuple[Control, ...] = ()
        try:
            if _is_cancelled():
                raise asyncio.CancelledError
            async with self._sandbox(plan, named) as sandbox:
                enforced = tuple(sorted(sandbox.enforced))
                if missing := plan.controls - sandbox.enforced:
                    raise unenforceable(self.runtime.name, self._probe, missing)
                outcome = await sandbox.run(plan.call)
            return self._answered(call_id, request, outcome, enforced)
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
        return self._failed(call_id, request, code, message, wall_ms, enforced)

    @asynccontextmanager
    async def _sandbox(self, plan: Plan, named: NamedSandbox | None) -> AsyncIterator[Sandbox]:
        """The named sandbox, or one that no call has used and none will use again."""
        if named is None:
            sandbox = await self._pool.acquire(plan.spec)
            try:
                yield sandbox
            finally:
                self._pool.release(sandbox)
            return
        with named.in_use():
            try:
                yield named.sandbox
            finally:
                if named.sandbox.channel.lost is not None:
                    self.sandboxes.end(named)

    def _answered(
        self,
        call_id: str,
        request: ToolRequest,
        outcome: CallOutcome,
        enforced: tuple[Control, ...],
    ) -> ToolReply:
        return ToolReply(
            tool_call_id=request.tool_call_id or call_id,
            isolation=self.runtime.isolation,
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
        code: ErrorCode,
        message: str,
        wall_ms: float = 0.0,
        enforced: tuple[Control, ...] = (),
    ) -> ToolReply:
        return ToolReply(
            tool_call_id=request.tool_call_id or call_id,
            isolation=self.runtime.isolation,
            code=code,
            message=message,
            exit_code=NO_PROGRAM,
            wall_ms=wall_ms,
            enforced=enforced,
        )

    async def _intend(
        self, call_id: str, caller: Caller, request: ToolRequest, ruling: Ruling
    ) -> None:
        await _to_the_end(
            self._audit.intent(
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
        )

    async def _conclude(self, call_id: str, reply: ToolReply) -> ToolReply:
        await _to_the_end(
            self._audit.outcome(
                call_id=call_id,
                status=reply.status,
                code=str(reply.code or ""),
                exit_code=reply.exit_code,
                cpu_ms=reply.cpu_ms,
                wall_ms=round(reply.wall_ms),
                isolation=str(reply.isolation),
                enforced=[str(control) for control in reply.enforced],
            )
        )
        return reply


def _ruling_of(refusal: SandboxError) -> Ruling:
    if isinstance(refusal, Refused):
        return refusal.ruling
    return Ruling("deny", str(refusal.code), refusal.message)


def _trace(request: ToolRequest) -> dict[str, str]:
    named = {
        "tool_call_id": request.tool_call_id or "",
        "run_id": request.run_id,
        "step_id": request.step_id,
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


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await something that a cancellation must not cut short; it is noticed afterwards."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
