"""A pool whose first sandbox is begun while the daemon is still importing itself."""

from __future__ import annotations

import asyncio

from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.pool import Pool


class HeadStartPool(Pool):
    """`begin` guesses the first spec; a wrong guess costs a sandbox nobody uses."""

    def __init__(self, runtime: Runtime, size: int) -> None:
        super().__init__(runtime, size)
        self._first: tuple[SandboxSpec, asyncio.Task[Sandbox]] | None = None

    def begin(self, spec: SandboxSpec) -> None:
        """Start a sandbox now, for the first call that asks for this spec."""
        self._first = (spec, asyncio.create_task(super().acquire(spec)))

    async def acquire(self, spec: SandboxSpec) -> Sandbox:
        if self._first is not None and self._first[0] == spec:
            _, begun = self._first
            self._first = None
            return await begun
        return await super().acquire(spec)

    async def close(self) -> None:
        if self._first is not None:
            _, begun = self._first
            self._first = None
            begun.cancel()
            await asyncio.wait([begun])
            if not begun.cancelled() and begun.exception() is None:
                self.release(begun.result())
        await super().close()
