"""`sandbox.code`: code that keeps its variables from one run to the next."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from .asked import code as asked
from .errors import NotFound
from .execution import CODE, Execution, Ran, executed
from .stream import Stream

if TYPE_CHECKING:
    from mas_sandbox.api.code import ContextInfo

    from .asked import Asked
    from .connection import Connection


class CodeContext:
    """A place where code runs: what one run defines is there for the next.

    `id` names it; `info`: how it was when it was last asked about. The end of a `with` block
    closes it.
    """

    def __init__(self, connection: Connection, sandbox_id: str, info: ContextInfo) -> None:
        self._connection = connection
        self._sandbox_id = sandbox_id
        self.info = info
        self.id = info.context_id

    def run(
        self,
        code: str,
        *,
        timeout: float | None = None,
        on_event: Callable[[Ran], object] | None = None,
    ) -> Execution:
        """`Code.run` in this context."""
        return self._code().run(code, context=self, timeout=timeout, on_event=on_event)

    def stream(self, code: str, *, timeout: float | None = None) -> Stream[Ran]:
        """`Code.stream` in this context."""
        return self._code().stream(code, context=self, timeout=timeout)

    def interrupt(self) -> ContextInfo:
        """Raise KeyboardInterrupt in what runs; variables stay."""
        return self._update(asked.changed(self._sandbox_id, self.id, "interrupt"))

    def restart(self) -> ContextInfo:
        """Begin again without variables."""
        return self._update(asked.changed(self._sandbox_id, self.id, "restart"))

    def refresh(self) -> ContextInfo:
        """How it is now."""
        return self._update(asked.about(self._sandbox_id, self.id))

    def close(self) -> None:
        """End it and what runs in it. Safe to call twice."""
        with suppress(NotFound):
            self._update(asked.closed(self._sandbox_id, self.id))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<CodeContext {self.id}>"

    def _code(self) -> Code:
        return Code(self._connection, self._sandbox_id)

    def _update(self, request: Asked[ContextInfo]) -> ContextInfo:
        self.info = self._connection.ask(request)
        return self.info


class Code:
    """The code of one sandbox. Runs in one context take turns; contexts run side by side."""

    def __init__(self, connection: Connection, sandbox_id: str) -> None:
        self._connection = connection
        self._sandbox_id = sandbox_id

    def run(
        self,
        code: str,
        *,
        context: CodeContext | str | None = None,
        timeout: float | None = None,
        on_event: Callable[[Ran], object] | None = None,
    ) -> Execution:
        """Run code to its end.

        `context`: where, by itself or its id; the sandbox's own where missing. `timeout`:
        seconds after which it is interrupted. `on_event` is told everything as it happens.
        An exception that the code raises is in the `Execution`; its `check` raises.
        """
        with self.stream(code, context=context, timeout=timeout) as events:
            return executed(events, on_event)

    def stream(
        self,
        code: str,
        *,
        context: CodeContext | str | None = None,
        timeout: float | None = None,
    ) -> Stream[Ran]:
        """Run code and tell what happens as it happens. Leaving the stream interrupts it.

        `CodeStarted` first; `CodeOutput` with `type` and `text`; `CodeResult` with `data` by
        media type; `CodeError` for an exception; `CodeEnded` last.
        """
        context_id = context.id if isinstance(context, CodeContext) else context
        body = asked.run_body(code, context_id, timeout)
        path = asked.run_path(self._sandbox_id)
        return Stream(self._connection.events("POST", path, CODE, body))

    def context(self, **options: Unpack[asked.ContextOptions]) -> CodeContext:
        """A new context; see `ContextOptions`."""
        info = self._connection.ask(asked.created(self._sandbox_id, options))
        return CodeContext(self._connection, self._sandbox_id, info)

    def contexts(self) -> tuple[CodeContext, ...]:
        """Those that are open, oldest first."""
        found = self._connection.ask(asked.listed(self._sandbox_id)).contexts
        return tuple(CodeContext(self._connection, self._sandbox_id, info) for info in found)
