"""Signals as bytes in a pipe, so that one `poll` waits for them with everything else."""

from __future__ import annotations

import os
import signal
import sys

# `signal.signal` makes enums of all that goes in and comes out.
set_handler = sys.modules["_signal"].signal
_NUMBERS = tuple(map(int, (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)))


class Signals:
    """Takes SIGCHLD, SIGTERM and SIGINT over for this process. `descriptor` turns readable."""

    def __init__(self) -> None:
        self.descriptor, writing = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in _NUMBERS:
            set_handler(number, _noted)

    def take(self) -> bool:
        """Empty the pipe; whether anything but the end of a child was in it."""
        try:
            numbers = os.read(self.descriptor, 4096)
        except BlockingIOError:
            return False
        return bool(numbers.strip(bytes([signal.SIGCHLD])))


def _noted(number: int, frame: object) -> None:
    """The number is in the pipe."""
