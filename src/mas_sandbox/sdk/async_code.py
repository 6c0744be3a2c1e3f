"""`sandbox.code` for asyncio."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from .asked import code as asked
from .async_stream import AsyncStream
from .errors import NotFound
from .execution import CODE, Execution, Ran, Running

if TYPE_CHECKING:
    from mas_sandbox.api.code import ContextInfo

    from .asked import Asked
    from .async_connection import AsyncConnection


class AsyncCodeContext:
    """A place where code runs: what one run defines is there for the next.

    `id` names it; `info`: how it was when it was last asked about. The end of an `async with` block
    closes it.
    """

    def __init__(self, connection: AsyncConnection, sandbox_id: str, info: ContextInfo) -> None:
        self._connection = connection
        self._sandbox_id = sandbox_id
        self.info = info
        self.id = info.context_id

    async def run(
        self,
        code: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the daemon counts them
        on_event: Callable[[Ran], object] | None = None,
    ) -> Execution:
        """`AsyncCode.run` in this context."""
        return await self._code().run(code, context=self, timeout=timeout, on_event=on_event)

    def stream(self, code: str, *, timeout: float | None = None) -> AsyncStream[Ran]:
        """`AsyncCode.stream` in this context."""
        return self._code().stream(code, context=self, timeout=timeout)

    async def interrupt(self) -> ContextInfo:
        """Raise KeyboardInterrupt in what runs; variables stay."""
        return await self._update(asked.changed(self._sandbox_id, self.id, "interrupt"))

    async def restart(self) -> ContextInfo:
        """Begin again without variables."""
        return await self._update(asked.changed(self._sandbox_id, self.id, "restart"))

    async def refresh(self) -> ContextInfo:
        """How it is now."""
        return await self._update(asked.about(self._sandbox_id, self.id))

    async def aclose(self) -> None:
        """End it and what runs in it. Safe to call twice."""
        with suppress(NotFound):
            await self._update(asked.closed(self._sandbox_id, self.id))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<AsyncCodeContext {self.id}>"

    def _code(self) -> AsyncCode:
        return AsyncCode(self._connection, self._sandbox_id)

    async def _update(self, request: Asked[ContextInfo]) -> ContextInfo:
        self.info = await self._connection.ask(request)
        return self.info


class AsyncCode:
    """The code of one sandbox. Runs in one context take turns; contexts run side by side."""

    def __init__(self, connection: AsyncConnection, sandbox_id: str) -> None:
        self._connection = connection
        self._sandbox_id = sandbox_id

    async def run(
        self,
        code: str,
        *,
        context: AsyncCodeContext | str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the daemon counts them
        on_event: Callable[[Ran], object] | None = None,
    ) -> Execution:
        """Run code to its end.

        `context`: where, by itself or its id; the sandbox's own where missing. `timeout`:
        seconds after which it is interrupted. `on_event` is told everything as it happens.
        An exception that the code raises is in the `Execution`; its `check` raises.
        """
        running = Running()
        async with self.stream(code, context=context, timeout=timeout) as events:
            async for event in events:
                running.take(event)
                if on_event is not None:
                    on_event(event)
        return running.ended()

    def stream(
        self,
        code: str,
        *,
        context: AsyncCodeContext | str | None = None,
        timeout: float | None = None,
    ) -> AsyncStream[Ran]:
        """Run code and tell what happens as it happens. Leaving the stream interrupts it.

        `CodeStarted` first; `CodeOutput` with `type` and `text`; `CodeResult` with `data` by
        media type; `CodeError` for an exception; `CodeEnded` last.
        """
        context_id = context.id if isinstance(context, AsyncCodeContext) else context
        body = asked.run_body(code, context_id, timeout)
        path = asked.run_path(self._sandbox_id)
        return AsyncStream(self._connection.events("POST", path, CODE, body))

    async def context(self, **options: Unpack[asked.ContextOptions]) -> AsyncCodeContext:
        """A new context; see `ContextOptions`."""
        info = await self._connection.ask(asked.created(self._sandbox_id, options))
        return AsyncCodeContext(self._connection, self._sandbox_id, info)

    async def contexts(self) -> tuple[AsyncCodeContext, ...]:
        """Those that are open, oldest first."""
        found = (await self._connection.ask(asked.listed(self._sandbox_id))).contexts
        return tuple(AsyncCodeContext(self._connection, self._sandbox_id, info) for info in found)
