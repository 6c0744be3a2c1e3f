"""A machine that Firecracker runs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from mas_sandbox.wire.errors import SandboxError

from ..vm import Template, Vm, VmSpec
from .monitor import Monitor
from .requests import MEMORY, STATE
from .vsock import connect_vsock

SNAPSHOT_TIMEOUT_S = 60.0
"""For writing the guest's memory to disk, in full."""

Seal = Callable[[Path, Path, VmSpec, bytes], Template]
"""From a snapshot in a monitor's root to a template in a directory; reads whole files."""


class FirecrackerVm(Vm):
    """See `Vm`. `hello` is None: over vsock each connection begins with one."""

    hello = None

    def __init__(self, name: str, spec: VmSpec, monitor: Monitor, seal: Seal) -> None:
        self.id = name
        self.pid = monitor.pid
        self.ended = monitor.process.ended
        self.spec = spec
        self.monitor = monitor
        self._seal = seal

    async def connect(self, timeout_s: float) -> socket.socket:
        try:
            return await connect_vsock(
                self.monitor.vsock, self.spec.port, timeout_s, self.ended.done
            )
        except SandboxError as error:
            said = self.console_tail()[-500:] or "nothing"
            raise SandboxError(error.code, f"{error.message}; it said: {said}") from error

    async def pause(self) -> None:
        await self._step(self.monitor.api.patch("/vm", {"state": "Paused"}))

    async def resume(self) -> None:
        await self._step(self.monitor.api.patch("/vm", {"state": "Resumed"}))

    async def reclaim(self, mem_mib: int) -> None:
        """Ask the guest to give up this much memory; it takes it again when it is short."""
        await self._step(self.monitor.api.patch("/balloon", {"amount_mib": mem_mib}))

    async def snapshot(self, directory: Path, hello: bytes = b"") -> Template:
        body = {"snapshot_type": "Full", "snapshot_path": STATE, "mem_file_path": MEMORY}
        await self._step(self.monitor.api.put("/snapshot/create", body, SNAPSHOT_TIMEOUT_S))
        root = self.monitor.root.path
        return await asyncio.to_thread(self._seal, root, directory, self.spec, hello)

    async def stop(self) -> None:
        await self.monitor.stop()

    def console_tail(self) -> str:
        return self.monitor.said()

    async def _step(self, step: Awaitable[None]) -> None:
        """A monitor that refuses, or does not answer in time, is not one to go on with."""
        try:
            await step
        except SandboxError:
            self.monitor.process.kill()
            raise
