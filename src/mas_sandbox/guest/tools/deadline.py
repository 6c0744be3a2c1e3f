"""A bound on wall time for work that has no single place to wait."""

from __future__ import annotations

import signal

from . import ToolFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

_AGAIN_SECONDS = 0.5
"""Code that swallows the failure is interrupted once more after this time."""


class Deadline:
    """A context that ends itself with ToolFailure. A call's process has one at a time, in
    its only thread: it uses SIGALRM."""

    def __init__(self, seconds: float, what: str) -> None:
        self._seconds = seconds
        self._message = f"{what} took longer than {seconds:g} s; raise timeout or ask for less"

    def __enter__(self) -> None:
        self._before = signal.signal(signal.SIGALRM, self._expire)
        signal.setitimer(signal.ITIMER_REAL, self._seconds, _AGAIN_SECONDS)

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)

    def _expire(self, number: int, frame: FrameType | None) -> None:
        raise ToolFailure(self._message)
