"""Who may run now, who waits, and who is told to come back later."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mas_sandbox.wire.errors import ErrorCode, SandboxError

_SMOOTHING = 0.1
"""Weight of the newest call in the running mean of how long a call takes."""
_LONGEST_RETRY_S = 60


class Overloaded(SandboxError):
    """The request was not taken. `retry_after`: whole seconds until it is worth a try."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(ErrorCode.OVERLOADED, f"{message}; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(eq=False, slots=True)
class _Waiter:
    principal: str
    limit: int | None
    turn: asyncio.Future[None]


class Admission:
    """At most `max_running` calls run and `max_queue` wait.

    Among principals turns go round; for one principal, first come, first served. When
    the queue is full, the newest call of whoever holds most of it gives way to a
    principal that holds less, so that one caller cannot shut the others out.
    """

    def __init__(self, max_running: int, max_queue: int) -> None:
        self._max_running = max_running
        self._max_queue = max_queue
        self._running: Counter[str] = Counter()
        self._queues: dict[str, deque[_Waiter]] = {}  # in the order of their next turn
        self._mean_s = 0.1

    @property
    def running(self) -> int:
        return self._running.total()

    @property
    def waiting(self) -> int:
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def slot(self, principal: str, limit: int | None) -> AsyncIterator[None]:
        """Hold one of the running places; `limit` is the principal's own bound, if any.

        Raises Overloaded when there is no room to wait in.
        """
        await self._enter(principal, limit)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            yield
        finally:
            self._mean_s += _SMOOTHING * (loop.time() - began - self._mean_s)
            self._leave(principal)

    def retry_after(self) -> int:
        """Seconds in which the calls now waiting will have had their turn, as far as known."""
        seconds = self._mean_s * (self.waiting + 1) / self._max_running
        return min(max(1, math.ceil(seconds)), _LONGEST_RETRY_S)

    async def _enter(self, principal: str, limit: int | None) -> None:
        if principal not in self._queues and self._may_run(principal, limit):
            self._running[principal] += 1
            return
        self._make_room(principal)
        waiter = _Waiter(principal, limit, asyncio.get_running_loop().create_future())
        self._queues.setdefault(principal, deque()).append(waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled() and not waiter.turn.exception():
                self._leave(principal)  # the turn had come; someone else may have it
            else:
                self._withdraw(waiter)
                self._admit()  # it may have been what held its principal's others up
            raise

    def _may_run(self, principal: str, limit: int | None) -> bool:
        if self.running >= self._max_running:
            return False
        return limit is None or self._running[principal] < limit

    def _make_room(self, principal: str) -> None:
        if self.waiting < self._max_queue:
            return
        full = Overloaded(f"{self.waiting} calls are waiting already", self.retry_after())
        if not self._queues:
            raise full
        most = max(self._queues.values(), key=len)
        if len(most) <= len(self._queues.get(principal, ())) + 1:
            raise full
        newest = most[-1]
        self._withdraw(newest)
        if not newest.turn.done():
            newest.turn.set_exception(full)

    def _leave(self, principal: str) -> None:
        self._running[principal] -= 1
        if not self._running[principal]:
            del self._running[principal]
        self._admit()

    def _admit(self) -> None:
        """Give free places to the heads of the queues, each principal in turn."""
        while any(self._admit_next(principal) for principal in list(self._queues)):
            pass

    def _admit_next(self, principal: str) -> bool:
        waiter = self._queues[principal][0]
        # One that is done was cancelled; its task is about to withdraw it.
        if waiter.turn.done() or not self._may_run(principal, waiter.limit):
            return False
        self._withdraw(waiter)
        if principal in self._queues:  # had its turn: to the end of the round
            self._queues[principal] = self._queues.pop(principal)
        self._running[principal] += 1
        waiter.turn.set_result(None)
        return True

    def _withdraw(self, waiter: _Waiter) -> None:
        queue = self._queues.get(waiter.principal)
        if queue is None or waiter not in queue:
            return
        queue.remove(waiter)
        if not queue:
            del self._queues[waiter.principal]
