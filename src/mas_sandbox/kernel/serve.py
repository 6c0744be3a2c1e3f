"""A kernel's life: one request after another, each from a line of JSON to its two marked ends."""

from __future__ import annotations

import builtins
import io
import json
import os
import signal
import sys

from . import figures
from .line import Line
from .plain import Plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any, BinaryIO, NoReturn, Protocol

    class Shell(Protocol):
        """What runs code. `tell`: of what `run` raised."""

        name: str
        display: Callable[..., None]

        def run(self, code: str, execution: int) -> None: ...

        def tell(self, error: BaseException) -> None: ...


def serve(settings: dict[str, Any], asked: BinaryIO) -> None:
    """`settings`: `mark`, as of a Line, and `kernel`: `plain`, `ipython` or `auto`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # As in a terminal: what ends with a line is seen at once.
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    line = Line(settings["mark"])
    builtins.input = _nobody_to_ask
    sys.argv = [""]
    sys.path.insert(0, "")
    try:
        shell = _shell(settings["kernel"], line)
    except ImportError as error:
        line.say({"type": "failed", "message": str(error)[:500]})
        return
    turns = Turns(shell, line)
    line.say({"type": "ready", "kernel": shell.name})
    while request := asked.readline():
        turns.take(json.loads(request))


def _shell(kernel: str, line: Line) -> Shell:
    """Raises ImportError."""
    if kernel != "plain":
        try:
            from .with_ipython import WithIPython

            return WithIPython(line)
        except ImportError:
            if kernel != "auto":
                raise
    return Plain(line)


class Turns:
    """Runs what it is asked for, and is interrupted by SIGINT only while it does."""

    def __init__(self, shell: Shell, line: Line) -> None:
        self._shell = shell
        self._line = line
        self._owner = os.getpid()
        self._running = False
        self._listen()

    def take(self, request: dict[str, Any]) -> None:
        execution = request["execution"]
        self._listen()  # the code may have set its own
        try:
            self._running = True
            try:
                self._line.begin(execution)
                status = self._attempt(request["code"], execution)
            finally:
                self._running = False
        except KeyboardInterrupt:  # while what had happened was being told
            status = "interrupted"
        if os.getpid() != self._owner:
            _leave_the_fork(status)
        self._line.end(execution, status)

    def _attempt(self, code: str, execution: int) -> str:
        try:
            self._shell.run(code, execution)
            figures.show_all(self._shell.display)
            return "ok"
        except KeyboardInterrupt as interrupt:
            self._shell.tell(interrupt)
            return "interrupted"
        except BaseException as error:  # noqa: BLE001  # the code's own, SystemExit too
            self._shell.tell(error)
            return "exception"

    def _listen(self) -> None:
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGURG, _do_nothing)  # but end a wait, to heed the other

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._running:
            self._line.interrupt()


def _do_nothing(number: int, frame: FrameType | None) -> None:
    return


def _leave_the_fork(status: str) -> NoReturn:
    """A child that the code forked has come back from it: here is no place to go on."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0 if status == "ok" else 1)


def _nobody_to_ask(prompt: object = "") -> NoReturn:
    raise EOFError("input() has nobody to ask: code that runs here has no standard input")
