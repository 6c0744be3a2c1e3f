"""Between a process in a sandbox and this command's own stdin, stdout, stderr and terminal."""

from __future__ import annotations

import os
import signal
import sys
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from threading import Thread
from typing import TYPE_CHECKING, Protocol, assert_never

from mas_sandbox.api.live import Exited, Gap, Output, Started
from mas_sandbox.wire.errors import SandboxError

from .attend import attend, leave
from .screen import complain, visible
from .terminal import PLAIN, raw, size, write_all

if TYPE_CHECKING:
    from mas_sandbox.sdk.events import Happened

STDIN, STDOUT, STDERR = 0, 1, 2
LOST_STATUS = 255
"""This command's own failure, as ssh has it: the program's own status would be taken for it."""
_PIECE = 65536


class Target(Protocol):
    """A process, or what is attached to one."""

    def write(self, data: bytes) -> object: ...
    def close_stdin(self) -> object: ...
    def signal(self, signal: str) -> object: ...
    def resize(self, rows: int, cols: int) -> object: ...


def relay(
    target: Callable[[], Target],
    events: Iterable[Happened],
    *,
    interactive: bool,
    terminal: bool,
) -> int:
    """Pass on everything until the process has ended: its exit status, 128 + N for signal N.

    `target`: asked for when there is something to tell it; `interactive`: it reads our
    stdin; `terminal`: it has a terminal, which is ours. Without one, Ctrl-C is sent to it as
    a signal, and a second one leaves it. When it is lost, that is told, and the status is
    255. Raises SystemExit when this command is told to end. However it ends, the terminal is
    as it was.
    """
    showing = Showing(terminal)
    asked = False
    again: Callable[[], None] | None = None

    def obey(number: int) -> None:
        nonlocal asked
        match number:
            case signal.SIGINT if not asked:
                asked = True
                target().signal("SIGINT")
            case signal.SIGWINCH:
                target().resize(*size(STDIN, STDOUT))
            case signal.SIGCONT:
                if again is not None:
                    again()
                target().resize(*size(STDIN, STDOUT))
            case _:
                leave(number)

    def try_to_obey(number: int) -> None:
        # It may have ended, or be lost, a moment ago: its events tell.
        with suppress(SandboxError):
            obey(number)

    heeded = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    if terminal:
        heeded += [signal.SIGWINCH, signal.SIGCONT]
    try:
        with ExitStack() as undo:
            if terminal and interactive:
                again = undo.enter_context(raw(STDIN))
            undo.callback(showing.end)
            if interactive:
                Thread(target=_feed, args=(target(),), daemon=True).start()
            attend(lambda: showing.all_of(events), heeded, try_to_obey)
    except SandboxError as error:
        complain(str(error))
        return LOST_STATUS
    return showing.status()


def _feed(target: Target) -> None:
    """Our stdin to its own, and its end. How the process fares is told by its events."""
    with suppress(SandboxError, OSError):
        while data := os.read(STDIN, _PIECE):
            target.write(data)
        target.close_stdin()


class Showing:
    """What a process writes, on our stdout and stderr.

    Its terminal is passed on as it is. Without one, what it prints on our terminal is made
    visible rather than obeyed; a pipe or file gets every byte.
    """

    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal
        self._exit: Exited | None = None
        self._decoders = {
            kind: getincrementaldecoder("utf-8")("backslashreplace")
            for kind, stream in (("stdout", sys.stdout), ("stderr", sys.stderr))
            if not terminal and stream.isatty()
        }

    def all_of(self, events: Iterable[Happened]) -> None:
        """Raises SandboxError when they end too early."""
        for event in events:
            self.show(event)

    def show(self, event: Happened) -> None:
        match event:
            case Output(type=kind, data=data):
                self._write(kind, data)
            case Exited():
                self._exit = event
            case Gap(bytes=count):
                if not self._terminal:  # which draws itself anew
                    complain(f"{count} bytes of its output are no longer kept")
            case Started():
                pass
            case _:
                assert_never(event)

    def end(self) -> None:
        """Undo what a program that was cut off has left on the terminal."""
        for kind in self._decoders:
            self._write(kind, b"", final=True)
        if self._terminal and self._exit is None and os.isatty(STDOUT):
            with suppress(OSError):
                write_all(STDOUT, PLAIN)

    def status(self) -> int:
        ended = self._exit
        if ended is not None and ended.error is not None:
            complain(f"{ended.error.code}: {ended.error.message}")
        if ended is None or ended.exit_code is None:
            return LOST_STATUS
        return ended.exit_code

    def _write(self, kind: str, data: bytes, *, final: bool = False) -> None:
        decoder = self._decoders.get(kind)
        if decoder is not None:
            data = visible(decoder.decode(data, final)).encode()
        write_all(STDERR if kind == "stderr" else STDOUT, data)
