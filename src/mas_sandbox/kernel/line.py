"""How a kernel is heard among what the code writes: marked pieces in the same pipe.

A piece is the mark, its length, `+` where more of the message follows or `.`, and some bytes
of JSON. It is never longer than what a pipe takes in one go (pipe(7), PIPE_BUF), so nothing
that others write comes in between; and since it goes where the output goes, it is in order.
No thread has to read what the code writes, which could neither keep up nor run at all while
an extension module holds the interpreter.
"""

from __future__ import annotations

import json
import os
import select
import sys
import threading
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Line:
    """`mark`: ASCII that nothing else begins with."""

    def __init__(self, mark: str) -> None:
        self._writer = 0
        self._interrupted = False
        self._mark = mark.encode()
        self._room = select.PIPE_BUF - len(self._mark) - 5
        self._output, self._errors = os.dup(1), os.dup(2)
        self._streams = sys.stdout, sys.stderr
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def say(self, message: dict[str, Any]) -> None:
        """After all that was printed so far. Raises ValueError for what is not JSON."""
        self._send(self._output, json.dumps(message, allow_nan=False).encode())

    def begin(self, execution: int) -> None:
        """From now on an interrupt is heard."""
        self.say({"type": "begin", "execution": execution})

    def end(self, execution: int, status: str) -> None:
        """On both pipes: whoever has heard it twice has heard everything."""
        self.say({"type": "end", "execution": execution, "status": status})
        self._send(self._errors, json.dumps({"type": "end", "execution": execution}).encode())

    def interrupt(self) -> None:
        """Raises KeyboardInterrupt; not before it is out, where this thread is in the middle
        of a message."""
        self._interrupted = self._writer == threading.get_ident()
        if not self._interrupted:
            raise KeyboardInterrupt

    def _send(self, descriptor: int, message: bytes) -> None:
        if os.getpid() != self._owner:
            return  # a fork of the code's own, which is nobody's kernel
        for stream in self._streams:
            with suppress(OSError, ValueError):
                stream.flush()
        with self._lock:
            self._writer = threading.get_ident()
            try:
                for begin in range(0, len(message), self._room):
                    piece = message[begin : begin + self._room]
                    more = b"+" if begin + self._room < len(message) else b"."
                    _write(descriptor, b"%b%04x%b%b" % (self._mark, len(piece), more, piece))
            finally:
                self._writer = 0
        if self._interrupted and threading.current_thread() is threading.main_thread():
            self.interrupt()


def _write(descriptor: int, piece: bytes) -> None:
    while True:
        try:
            os.write(descriptor, piece)  # all of it or nothing
            return
        except BlockingIOError:  # somebody who shares the pipe made it so
            select.select([], [descriptor], [])
