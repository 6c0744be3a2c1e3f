"""Warm sandboxes: started ahead of need, given out once, never taken back."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Coroutine

from mas_sandbox.wire.errors import SandboxError

from .base import Runtime, Sandbox, SandboxSpec

KEPT_SPECS = 4
"""How many different specs are kept warm; the least recently used goes first."""

REFILL_AFTER_S = 0.1
"""How long a place stays empty while there are others."""


class Pool:
    """Sandboxes of one runtime, at most `size` of them warm for each spec in use."""

    def __init__(self, runtime: Runtime, size: int) -> None:
        self.runtime = runtime
        self._size = size
        self._warm: dict[SandboxSpec, deque[Sandbox]] = {}
        self._starting: dict[SandboxSpec, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._starts = asyncio.Semaphore(2 * (os.cpu_count() or 1))
        self._closed = False

    def warm(self, spec: SandboxSpec) -> None:
        """Begin to keep sandboxes of this spec ready."""
        if self._closed or self._size == 0:
            return
        self._warm[spec] = self._warm.pop(spec, deque())  # most recently used goes last
        while len(self._warm) > KEPT_SPECS:
            for sandbox in self._warm.pop(next(iter(self._warm))):
                self.release(sandbox)
        missing = self._size - len(self._warm[spec]) - self._starting.get(spec, 0)
        for _ in range(missing):
            self._starting[spec] = self._starting.get(spec, 0) + 1
            self._spawn(self._refill(spec))

    async def acquire(self, spec: SandboxSpec) -> Sandbox:
        """A sandbox that no call has used. The caller gives it to `release` or stops it.

        Raises SandboxError as `Runtime.start` does.
        """
        sandbox = self._take(spec)
        if sandbox is not None and self._warm[spec]:
            # Starting another takes the processor from the call that this one is for.
            asyncio.get_running_loop().call_later(REFILL_AFTER_S, self.warm, spec)
        else:
            self.warm(spec)
        if sandbox is None:
            async with self._starts:
                sandbox = await self.runtime.start(spec)
        return sandbox

    def release(self, sandbox: Sandbox) -> None:
        """Stop a sandbox without waiting for it; `close` waits."""
        self._spawn(sandbox.stop())

    async def close(self) -> None:
        """Stop every warm sandbox, wait for those being stopped, then close the runtime."""
        self._closed = True
        for waiting in self._warm.values():
            while waiting:
                self.release(waiting.popleft())
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.runtime.close()

    def _take(self, spec: SandboxSpec) -> Sandbox | None:
        waiting = self._warm.get(spec)
        while waiting:
            sandbox = waiting.popleft()
            if sandbox.channel.lost is None:
                return sandbox
            self.release(sandbox)
        return None

    async def _refill(self, spec: SandboxSpec) -> None:
        try:
            async with self._starts:
                if self._closed:
                    return
                sandbox = await self.runtime.start(spec)
                await self._warm_up(sandbox)
        except SandboxError:
            return  # the next `acquire` starts its own, and tells its caller why it failed
        finally:
            self._starting[spec] -= 1
            if not self._starting[spec]:
                del self._starting[spec]
        if self._closed or spec not in self._warm:
            await sandbox.stop()
        else:
            self._warm[spec].append(sandbox)

    async def _warm_up(self, sandbox: Sandbox) -> None:
        try:
            await sandbox.warm_up()
        except BaseException:
            await sandbox.stop()
            raise

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
