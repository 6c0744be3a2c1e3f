"""Processor time of calls, as the host counts it: `Call.cpu_ms` held from outside.

The toolrunner sums up the processes that it sees and ends a call itself, promptly and
by its own count. A program can hide from that sum: children that are never waited for
leave no trace in their parent (wait(2), SIGCHLD ignored). It cannot hide from the
sandbox's control group. So here all that a sandbox used since it was last idle is held
to what its calls may use together: exact for a call that is alone, and of calls side by
side none can use more than all of them have.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from mas_sandbox.wire.errors import ErrorCode, SandboxError

if TYPE_CHECKING:
    from mas_sandbox.wire.messages import Call

    from .outcome import CallOutcome

INTERVAL_S = 0.05
OWN_SHARE, OWN_US = 0.25, 250_000
"""What the toolrunner, and a kernel of its own, may use beside the calls."""


class ProcessorTime:
    """The calls of one sandbox. `used`: microseconds so far, None where nobody counts."""

    def __init__(self, used: Callable[[], int | None]) -> None:
        self._used = used
        self._unlimited = 0
        self._limited: set[asyncio.Task[CallOutcome]] = set()
        self._exceeded: set[asyncio.Task[CallOutcome]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._mixed = False
        self._since_us = self._granted_us = 0

    async def run(self, call: Call, work: Coroutine[Any, Any, CallOutcome]) -> CallOutcome:
        """The outcome of `work`, which runs `call`.

        Raises SandboxError `timeout` when the sandbox used more than its calls may.
        """
        if not call.cpu_ms:
            self._unlimited += 1
            self._mixed = True
            try:
                return await work
            finally:
                self._unlimited -= 1
        if not self._limited:
            self._begin()
        self._granted_us += call.cpu_ms * 1000
        task = asyncio.ensure_future(work)
        self._limited.add(task)
        try:
            outcome = await task
            self._granted_us -= max(0, call.cpu_ms - outcome.cpu_ms) * 1000
            return outcome
        except asyncio.CancelledError:
            if task not in self._exceeded:
                raise
            raise SandboxError(
                ErrorCode.TIMEOUT,
                f"ended at its limit of processor time; raise cpu_ms (it was {call.cpu_ms}) "
                "or do less in one call",
            ) from None
        finally:
            self._limited.discard(task)
            self._exceeded.discard(task)
            if not self._limited and self._watch is not None:
                self._watch.cancel()
                self._watch = None

    def _begin(self) -> None:
        self._since_us, self._granted_us = self._used() or 0, 0
        self._mixed = self._unlimited > 0
        self._watch = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            used = self._used()
            if used is None or self._mixed:
                continue
            if used - self._since_us > self._granted_us * (1 + OWN_SHARE) + OWN_US:
                for task in self._limited - self._exceeded:
                    self._exceeded.add(task)
                    task.cancel()
