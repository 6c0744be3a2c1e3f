"""`mas-sandbox code`: Python that keeps its variables, from a file, an option or line by line."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

from cyclopts import Parameter

from mas_sandbox.api.code import CodeEnded, CodeError, CodeOutput, CodeResult, CodeStarted
from mas_sandbox.sdk.errors import InvalidRequest

from .attend import attend, leave
from .chosen import DaemonUrl, Json, SandboxId, Token
from .complete import paths
from .screen import complain, show, show_json, visible
from .words import seconds

if TYPE_CHECKING:
    from mas_sandbox.sdk import Sandbox
    from mas_sandbox.sdk.execution import Ran

STATUS = {"ok": 0, "exception": 1, "interrupted": 130, "lost": 255}
"""How a run went, as an exit status."""


def code(
    sandbox: SandboxId,
    file: Annotated[
        str | None,
        Parameter(
            help="What to run; - or nothing for stdin.",
            completer=paths,
            allow_leading_hyphen=True,
        ),
    ] = None,
    /,
    *,
    command: Annotated[
        str | None, Parameter(name=["--command", "-c"], help="Run this text instead.")
    ] = None,
    context: Annotated[
        str | None, Parameter(help="The id of a context; the sandbox's own one if left out.")
    ] = None,
    timeout: Annotated[
        str | None, Parameter(help="How long a run may take: seconds, or such as 15m.")
    ] = None,
    url: DaemonUrl = None,
    token: Token = None,
    json: Json = False,
) -> int:
    """Run Python in a sandbox; on a terminal, line by line.

    Variables, imports and the directory stay from one run to the next. Ctrl-C
    interrupts a run. The exit status is 0, 1 after an exception, 130 after an
    interrupt.
    """
    from mas_sandbox.sdk import Sandbox

    if file is not None and command is not None:
        raise InvalidRequest("give a file or -c, not both")
    timeout_s = seconds(timeout) if timeout else None
    with Sandbox.connect(sandbox, url, token) as place:
        running = Running(place, context, timeout_s)
        if command is None and file is None and sys.stdin.isatty():
            from .repl import converse

            return converse(running)
        text = command if command is not None else source(file)
        if json:
            show_json(running.whole(text))
            return running.status
        running.run(text)
        return running.status


def source(file: str | None) -> str:
    """The text of a file, or of stdin; raises InvalidRequest."""
    try:
        return sys.stdin.read() if file in (None, "-") else Path(str(file)).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"{file or 'stdin'} cannot be read: {exc}") from exc


class Running:
    """Runs in one context. `status`: of the last one, as an exit status."""

    def __init__(self, place: Sandbox, context: str | None, timeout_s: float | None) -> None:
        self._place = place
        self._context = context
        self._timeout_s = timeout_s
        self._runs_in: str | None = None
        self.status = 0

    def run(self, text: str) -> None:
        """Show what comes of it; Ctrl-C interrupts it, and it alone."""

        def work() -> None:
            with self._place.code.stream(
                text, context=self._context, timeout=self._timeout_s
            ) as events:
                self._show(events)

        attend(work, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP), self._obey)

    def whole(self, text: str) -> dict[str, Any]:
        """The execution as the API tells it."""
        done = self._place.code.run(text, context=self._context, timeout=self._timeout_s)
        self.status = STATUS[done.status]
        return done.model_dump(mode="json")

    def _show(self, events: Iterable[Ran]) -> None:
        for event in events:
            match event:
                case CodeStarted(context_id=context_id):
                    self._runs_in = context_id
                case CodeOutput(type=kind, text=text):
                    _write(text, sys.stderr if kind == "stderr" else sys.stdout)
                case CodeResult(data=data):
                    show(described(data), sys.stdout)
                case CodeError(traceback=traceback):
                    show(traceback, sys.stderr)
                case CodeEnded(status=status, error=error):
                    self.status = STATUS[status]
                    if error is not None:
                        complain(f"{error.code}: {error.message}")

    def _obey(self, number: int) -> None:
        if number != signal.SIGINT:
            leave(number)
        if self._runs_in is None:
            raise KeyboardInterrupt
        for context in self._place.code.contexts():
            if context.info.context_id == self._runs_in:
                context.interrupt()


def described(data: Mapping[str, Any]) -> str:
    """A result as text, and what else it is.

    >>> described({"text/plain": "<Figure>", "image/png": "aGk="})
    '<Figure> (also image/png)'
    """
    others = sorted(set(data) - {"text/plain"})
    if "text/plain" not in data:
        return f"({', '.join(others)})"
    also = [kind for kind in others if kind.startswith("image/")]
    return f"{data['text/plain']} (also {', '.join(also)})" if also else str(data["text/plain"])


def _write(text: str, stream: TextIO) -> None:
    stream.write(visible(text) if stream.isatty() else text)
    stream.flush()
