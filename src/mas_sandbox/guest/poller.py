"""What the toolrunner's one loop waits for: descriptors, each with what serves it."""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Serve = Callable[[int], object]
    """Called with a descriptor that is ready; it must not wait."""
    Watched = tuple[int, Serve]
    """The events that are polled for, and who serves them."""


class Poller:
    """The descriptors of one loop that are polled (poll(2)), until they are forgotten.

    A number that is closed is another descriptor's at once: so what may be watched is closed
    by `close`, or after `forget`. What was ready in a turn, and was forgotten in it since, is
    not served, nor is who has its number then.
    """

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watched: dict[int, Watched] = {}

    def watch(self, descriptor: int, events: int, serve: Serve) -> None:
        """Poll it for `events` from now on, and no more where they are 0."""
        watched = self._watched.get(descriptor)
        if not events:
            self.forget(descriptor)
        elif watched is None or watched[0] != events or watched[1] != serve:
            self._poll.register(descriptor, events)
            self._watched[descriptor] = (events, serve)

    def forget(self, descriptor: int) -> None:
        """Poll it no more, if it was."""
        if self._watched.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def close(self, descriptor: int) -> None:
        self.forget(descriptor)
        os.close(descriptor)

    def wait(self, patience_ms: float | None) -> list[tuple[int, Watched]]:
        """What is ready, at once or after a wait; None waits for ever."""
        return [(number, self._watched[number]) for number, _ in self._poll.poll(patience_ms)]

    def serve(self, ready: list[tuple[int, Watched]]) -> None:
        """Let each be served, in this order."""
        for descriptor, watched in ready:
            if self._watched.get(descriptor) is watched:
                watched[1](descriptor)
