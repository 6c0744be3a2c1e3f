"""The contexts of every named sandbox: made, listed, run in, interrupted, restarted, closed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .code_context import Context, NewContext
from .code_marks import Budget
from .code_run import Ending, Run, Wanted

if TYPE_CHECKING:
    from ..broker import Broker, Operation
    from ..calls import Caller
    from ..sandboxes import NamedSandbox

MAX_CONTEXTS = 16
_ANY = NewContext()


class Table:
    """The contexts of one sandbox; `own`: the one for code that names none."""

    def __init__(self, named: NamedSandbox) -> None:
        self.named = named
        self.contexts: dict[str, Context] = {}
        self._budget = Budget()
        self._own = ""
        self._beginning_own = asyncio.Lock()
        self._beginning = 0

    async def begin(self, wanted: NewContext, operation: Operation) -> Context:
        """Raises SandboxError: `overloaded`, and as `Context.begin` does."""
        if len(self.contexts) + self._beginning >= MAX_CONTEXTS:
            raise SandboxError(
                ErrorCode.OVERLOADED, f"{MAX_CONTEXTS} contexts are in this sandbox; close one"
            )
        context = Context(self.named, wanted, self._budget)
        self._beginning += 1
        try:
            await context.begin(operation)
        finally:
            self._beginning -= 1
        self.contexts[context.id] = context
        return context

    async def own(self, operation: Operation) -> Context:
        async with self._beginning_own:
            context = self.contexts.get(self._own)
            if context is None:
                context = await self.begin(_ANY, operation)
                self._own = context.id
            return context

    def find(self, context_id: str) -> Context:
        """Raises SandboxError `not_found`."""
        context = self.contexts.get(context_id)
        if context is None:
            raise SandboxError(
                ErrorCode.NOT_FOUND, "no such context in this sandbox; it may have been closed"
            )
        return context


class Codes:
    """Whoever owns a sandbox owns its contexts; someone else's are not found.

    What the policy says of the tool `code` decides on contexts and on each run in them.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._tables: dict[str, Table] = {}
        self._carrying: set[asyncio.Task[None]] = set()

    async def create(self, caller: Caller, sandbox_id: str, wanted: NewContext) -> Context:
        """Raises SandboxError: what the policy says, and as `Table.begin` does."""
        args = _described("create", wanted=wanted)
        async with self._broker.operation(caller, sandbox_id, "code", args) as operation:
            return await self._table(operation.named).begin(wanted, operation)

    def list(self, caller: Caller, sandbox_id: str) -> list[Context]:
        """The oldest first."""
        table = self._table(self._broker.sandboxes.find(caller.name, sandbox_id))
        return list(table.contexts.values())

    def find(self, caller: Caller, sandbox_id: str, context_id: str) -> Context:
        """Raises SandboxError `not_found`."""
        named = self._broker.sandboxes.find(caller.name, sandbox_id)
        return self._table(named).find(context_id)

    async def run(
        self, caller: Caller, sandbox_id: str, context_id: str | None, wanted: Wanted
    ) -> Run:
        """A run that has been decided on and has a place in its context's queue. It goes on
        whether or not somebody reads it; `leave` it when nobody does.

        Raises SandboxError: what the policy says, `not_found` for a context, WrongState for a
        dead one, `overloaded`.
        """
        if context_id is not None:
            self.find(caller, sandbox_id, context_id)  # whatever the policy says of code
        admitted: asyncio.Future[Run] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._carry(caller, sandbox_id, context_id, wanted, admitted))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)
        try:
            return await asyncio.shield(admitted)
        except asyncio.CancelledError:
            if admitted.done() and not admitted.cancelled() and admitted.exception() is None:
                admitted.result().leave()
                admitted.result().cancel(client_gone())
            else:
                admitted.cancel()
                task.cancel()
            raise

    def interrupt(self, caller: Caller, sandbox_id: str, context_id: str) -> Context:
        """Interrupt what runs in a context, if anything does. Raises SandboxError."""
        context = self.find(caller, sandbox_id, context_id)
        with context.named.in_use():
            context.interrupt(_interrupted("the run was interrupted"))
        return context

    async def restart(self, caller: Caller, sandbox_id: str, context_id: str) -> Context:
        """Raises SandboxError: what the policy says, and as `Context.restart` does."""
        context = self.find(caller, sandbox_id, context_id)
        args = _described("restart", context_id=context_id, wanted=context.wanted)
        async with self._broker.operation(caller, sandbox_id, "code", args) as operation:
            await context.restart(operation)
        return context

    def close(self, caller: Caller, sandbox_id: str, context_id: str) -> Context:
        """End a context, with all that it started. Raises SandboxError."""
        context = self.find(caller, sandbox_id, context_id)
        with context.named.in_use():
            context.close(_interrupted("the context was closed"))
        del self._table(context.named).contexts[context_id]
        return context

    async def _carry(
        self,
        caller: Caller,
        sandbox_id: str,
        context_id: str | None,
        wanted: Wanted,
        admitted: asyncio.Future[Run],
    ) -> None:
        """A run from its decision to its end; the outcome is recorded, then told."""
        args = _described("run", code=wanted.code, context_id=context_id or "")
        drained = _interrupted("the daemon is shutting down")
        ending = Ending("lost", drained)
        try:
            async with self._broker.operation(caller, sandbox_id, "code", args) as operation:
                table = self._table(operation.named)
                context = (
                    await table.own(operation) if context_id is None else table.find(context_id)
                )
                run = context.admit(wanted)
                if admitted.cancelled():
                    raise client_gone()
                admitted.set_result(run)
                ending = await context.carry(run)
                if ending.error is not None:
                    raise ending.error
        except SandboxError as error:
            if ending.error is not error:  # it could not be recorded, or was never to begin
                ending = Ending("lost", error)
        finally:
            if not admitted.done():
                admitted.set_exception(ending.error or drained)
                admitted.exception()  # marked as retrieved: nobody may be waiting
            elif not admitted.cancelled():
                admitted.result().finish(ending)

    def _table(self, named: NamedSandbox) -> Table:
        table = self._tables.get(named.id)
        if table is None:
            for other in [each for each in self._tables.values() if each.named.ended]:
                del self._tables[other.named.id]
            table = self._tables[named.id] = Table(named)
        return table


def client_gone() -> SandboxError:
    """Why a run is cut off that was to end with the connection."""
    return _interrupted("the client went away")


def _interrupted(why: str) -> SandboxError:
    return SandboxError(ErrorCode.INTERRUPTED, why)


def _described(
    operation: str, *, code: str = "", context_id: str = "", wanted: NewContext = _ANY
) -> dict[str, object]:
    """What policies decide on, and the audit log keeps."""
    return {
        "operation": operation,
        "language": "python",
        "code": code,
        "context_id": context_id,
        "cwd": wanted.cwd,
        "env": wanted.env,
        "kernel": wanted.kernel,
    }
