"""Terminals of processes (pty(7), tty_ioctl(4), termios(3))."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios

from .input import Input

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .connection import Connection
    from .poller import Poller

_LOCAL_MODES, _CHARACTERS = 3, 6  # of what tcgetattr returns
_SIGNALS = (
    (termios.VINTR, signal.SIGINT),
    (termios.VQUIT, signal.SIGQUIT),
    (termios.VSUSP, signal.SIGTSTP),
)


def open_terminal(rows: int, columns: int) -> tuple[int, int]:
    """Our end, and the process's. Raises OSError."""
    ours, theirs = os.openpty()
    resize(ours, rows, columns)
    return ours, theirs


def resize(descriptor: int, rows: int, columns: int) -> None:
    """The kernel tells who is in the foreground, with SIGWINCH."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def take_control(descriptor: int) -> None:
    """Make it the controlling terminal of this process, a session's leader."""
    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)


class TerminalInput(Input):
    """Input typed into a terminal, whose end is a character while it reads whole lines."""

    __slots__ = ("_at_line_start",)

    def __init__(
        self, descriptor: int, stream: int, connection: Connection, poller: Poller
    ) -> None:
        super().__init__(descriptor, stream, connection, poller)
        self._at_line_start = True

    def interpret(self, data: bytes) -> bytes:
        if self.foreground is not None:
            data = self._take_signals(data, self.foreground)
        if data:
            self._at_line_start = data.endswith((b"\n", b"\r"))
        return data

    def _take_signals(self, data: bytes, send: Callable[[int], object]) -> bytes:
        modes = self._modes()
        if not modes or not modes[_LOCAL_MODES] & termios.ISIG:
            return data
        for position, number in _SIGNALS:
            character = modes[_CHARACTERS][position]
            if character != b"\0" and character in data:
                send(number)
                data = data.replace(character, b"")
        return data

    def _modes(self) -> list[Any]:
        try:
            return termios.tcgetattr(self.descriptor)
        except (OSError, termios.error):
            return []  # the terminal is gone

    def end(self) -> None:
        """Type the end of file: twice after a piece of a line, which the first hands over."""
        modes = self._modes()
        if modes and modes[_LOCAL_MODES] & termios.ICANON:
            end_of_file = modes[_CHARACTERS][termios.VEOF]
            try:
                os.write(self.descriptor, end_of_file * (1 if self._at_line_start else 2))
            except OSError:
                return super().end()  # it is gone, or so full that nobody can be reading it
        return super().end()
