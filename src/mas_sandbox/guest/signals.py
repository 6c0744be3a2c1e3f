"""Signals as bytes in a pipe, so that one `poll` waits for them with everything else."""

from __future__ import annotations

import os
import signal
import sys

# The functions of `signal` make enums of all that goes in and comes out.
_signal = sys.modules["_signal"]
set_handler = _signal.signal
_NUMBERS = tuple(map(int, (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT)))
_PYTHONS_OWN = {int(signal.SIGPIPE), int(signal.SIGXFSZ)}
_IGNORED = {
    number for number in range(1, signal.NSIG) if _signal.getsignal(number) == _signal.SIG_IGN
} - _PYTHONS_OWN
"""By whoever started the daemon (nohup(1), the `&` of a shell): no program in a sandbox asked
for that."""


class Signals:
    """Takes SIGCHLD, SIGTERM and SIGINT over for this process. `descriptor` turns readable."""

    def __init__(self) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
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


def restore_defaults() -> None:
    """What is ours, and what we were started with, is nothing of a call's."""
    for number in (*_NUMBERS, *_IGNORED):
        set_handler(number, _signal.SIG_DFL)


def _noted(number: int, frame: object) -> None:
    """The number is in the pipe."""
