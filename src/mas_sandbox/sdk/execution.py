"""How code that was run to its end has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self, TypeAlias

from mas_sandbox.api import code as api
from mas_sandbox.api.code import (
    CodeEnded,
    CodeError,
    CodeEvent,
    CodeOutput,
    CodeResult,
    CodeStarted,
)
from mas_sandbox.api.live import Failed, KeepAlive

from .calls import decode
from .errors import CodeFailed, error_of
from .reading import Told, cut_off

Ran: TypeAlias = CodeStarted | CodeOutput | CodeResult | CodeError | CodeEnded
"""What is told of a run."""


class Execution(api.Execution):
    """A whole run: what it printed, what there is to look at, and how it ended.

    `status`: `ok`, `exception` (and `exception` has it), `interrupted` or `lost` (its process
    is gone, and its variables; `error` says why).
    """

    @property
    def result(self) -> CodeResult | None:
        """The value of the last expression, where the code ends with one."""
        return next((each for each in reversed(self.results) if each.main), None)

    @property
    def text(self) -> str | None:
        """That value as text, as Python's prompt would show it."""
        data: dict[str, Any] = self.result.data if self.result else {}
        text = data.get("text/plain")
        return None if text is None else str(text)

    def check(self) -> Self:
        """This; raises CodeFailed unless the code ran to its end without an exception."""
        if self.status == "ok":
            return self
        if self.error is not None:
            raise CodeFailed(self.error.message, execution=self)
        raised = self.exception
        message = f"{raised.name}: {raised.value}" if raised else f"the run was {self.status}"
        raise CodeFailed(message, execution=self)


def executed(events: Iterable[Ran], on_event: Callable[[Ran], object] | None) -> Execution:
    """A run that is told to its end."""
    running = Running()
    for event in events:
        running.take(event)
        if on_event is not None:
            on_event(event)
    return running.ended()


class Running:
    """A run as far as it is told."""

    def __init__(self) -> None:
        self._printed: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._results: list[CodeResult] = []
        self._exception: CodeError | None = None
        self._started: CodeStarted | None = None
        self._ended: CodeEnded | None = None

    def take(self, event: Ran) -> None:
        match event:
            case CodeStarted():
                self._started = event
            case CodeOutput(type=pipe, text=text):
                self._printed[pipe].append(text)
            case CodeResult():
                self._results.append(event)
            case CodeError():
                self._exception = event
            case CodeEnded():
                self._ended = event

    def ended(self) -> Execution:
        if self._started is None or self._ended is None:
            raise cut_off()
        return Execution(
            context_id=self._started.context_id,
            execution=self._started.execution,
            stdout="".join(self._printed["stdout"]),
            stderr="".join(self._printed["stderr"]),
            results=tuple(self._results),
            exception=self._exception,
            status=self._ended.status,
            error=self._ended.error,
        )


def _event(body: bytes | str) -> Ran | None:
    match decode(CodeEvent, body).root:
        case KeepAlive():
            return None
        case Failed(error=error):
            raise error_of(error)
        case happened:
            return happened


CODE: Told[Ran] = Told(_event, CodeEnded)
