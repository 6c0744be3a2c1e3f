"""The terminal that this command was started in, while a program inside draws on it."""

from __future__ import annotations

import os
import select
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DEFAULT_SIZE = (24, 80)

# xterm's control sequences: normal screen, cursor shown, no reports of the mouse, plain
# pastes, ordinary keys, no colours. All of them change nothing where nothing was changed.
PLAIN = (
    b"\x1b[?1047l\x1b[?25h\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l"
    b"\x1b[?1l\x1b>\x1b[0m"
)
"""What undoes the usual settings of a program that could not do so itself."""


@contextmanager
def raw(terminal: int) -> Iterator[Callable[[], None]]:
    """Every byte as it is typed, Ctrl-C too; however the block ends, all is as it was.

    Yields what makes the terminal raw again after a shell had this command stopped.
    """
    before = termios.tcgetattr(terminal)

    def again() -> None:
        # At once: a terminal that is held up (Ctrl-S) would hold up a wait for it as well.
        tty.setraw(terminal, termios.TCSANOW)

    try:
        again()
        yield again
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


def size(*terminals: int) -> tuple[int, int]:
    """(rows, columns) of the first of these descriptors that is a terminal and knows."""
    for terminal in terminals:
        try:
            columns, rows = os.get_terminal_size(terminal)
        except OSError:
            continue
        if rows and columns:
            return rows, columns
    return DEFAULT_SIZE


def write_all(descriptor: int, data: bytes) -> None:
    """All of it, however slowly it is taken; raises BrokenPipeError when nobody will."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            # Whoever shares it has made it non-blocking.
            select.select([], [descriptor], [])
