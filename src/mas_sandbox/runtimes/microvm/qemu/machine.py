"""A machine that QEMU runs: its steps and its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TypeVar

from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import FrameParser, Kind, ProtocolError
from mas_sandbox.wire.messages import Hello

from ...process import ChildProcess
from ..output import Output
from ..vm import Template, Vm, VmSpec
from .qmp import Qmp

STEP_TIMEOUT_S = 10.0
"""For any one thing asked of QEMU; an idle one answers in 1 ms."""
SAVE_TIMEOUT_S = 60.0
QUIT_TIMEOUT_S = 2.0
_RETRY_S = 0.01
_PANIC = "Kernel panic - not syncing: "
"""What a kernel says before it says where it was."""

Answer = TypeVar("Answer")
Save = Callable[["QemuVm", Path], Awaitable[Template]]


class QemuVm(Vm):
    """See `Vm`. `hello` is None where it comes over the channel."""

    hello: bytes | None = None

    def __init__(
        self,
        name: str,
        spec: VmSpec,
        process: ChildProcess,
        qmp: Qmp,
        console: Output,
        channel: socket.socket | int,
        memory: int | None,
        save: Save,
    ) -> None:
        """`channel`: our end of the virtio-serial port, or the guest's vsock address;
        `memory`: an open file that holds all of the guest's memory, the machine's own
        from now on, or None where the machine has pages of its own."""
        self.id = name
        self.pid = process.pid
        self.ended = process.ended
        self.spec = spec
        self.qmp = qmp
        self.memory = memory
        self.releases = AsyncExitStack()
        self._process = process
        self._console = console
        self._channel: socket.socket | int | None = channel
        self._save = save

    async def connect(self, timeout_s: float) -> socket.socket:
        match self._channel:
            case None:
                raise SandboxError(
                    ErrorCode.SANDBOX_CRASH, "connect: a serial port has one connection only"
                )
            case int(cid):
                return await self._connect_vsock((cid, self.spec.port), timeout_s)
            case port:
                self._channel = None
                return port

    async def pause(self) -> None:
        await self.step("pause", self.qmp.send("stop"))

    async def resume(self) -> None:
        await self.step("resume", self.qmp.send("cont"))

    async def snapshot(self, directory: Path) -> Template:
        return await self._save(self, directory)

    async def stop(self) -> None:
        await self.releases.aclose()

    def console_tail(self) -> str:
        return "\n".join(filter(None, (self._console.tail(), self._process.stderr())))

    async def step(
        self, name: str, work: Awaitable[Answer], timeout_s: float = STEP_TIMEOUT_S
    ) -> Answer:
        """The answer to one step; a monitor that fails it, or is late, is killed."""
        try:
            async with asyncio.timeout(timeout_s):
                return await work
        except TimeoutError as error:
            await self.kill()
            raise self.crash(f"{name}: no answer within {timeout_s:.3g} s") from error
        except (SandboxError, OSError, ProtocolError) as error:
            await self.kill()
            reason = error.message if isinstance(error, SandboxError) else str(error)
            raise self.crash(f"{name}: {reason}") from error

    def crash(self, reason: str) -> SandboxError:
        """An error that ends with the last thing the machine said, or why its kernel gave up."""
        lines = self.console_tail().splitlines()
        *_, last = ["", *lines[-1:], *(line for line in lines if _PANIC in line)]
        said = f"; the machine's last words: {last[-300:]}" if last else ""
        return SandboxError(ErrorCode.SANDBOX_CRASH, reason + said)

    async def kill(self) -> None:
        """End the monitor now, and wait until it is reaped."""
        self._process.kill()
        await asyncio.shield(self.ended)

    async def end(self) -> None:
        """End the monitor; one that may hold writes back is asked first."""
        if self.qmp.lost is None and not all(drive.read_only for drive in self.spec.drives):
            with suppress(SandboxError, TimeoutError):
                async with asyncio.timeout(QUIT_TIMEOUT_S):
                    await self.qmp.send("quit")
                    await asyncio.shield(self.ended)
        await self.kill()
        if isinstance(self._channel, socket.socket):
            self._channel.close()
        self._channel = None

    async def _connect_vsock(self, address: tuple[int, int], timeout_s: float) -> socket.socket:
        """vsock(7): refused, or unreachable, for as long as the guest does not listen."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            end = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
            end.setblocking(False)
            try:
                async with asyncio.timeout_at(deadline):
                    await loop.sock_connect(end, address)
                return end
            except (OSError, TimeoutError) as error:
                end.close()
                if self.ended.done():
                    raise self.crash("connect: the machine is gone") from error
                if loop.time() + _RETRY_S > deadline:
                    raise self.crash(
                        f"connect: nobody listens on vsock port {address[1]} after {timeout_s:g} s"
                    ) from error
            except BaseException:
                end.close()
                raise
            await asyncio.sleep(_RETRY_S)


async def read_hello(end: socket.socket) -> bytes:
    """The payload of the HELLO that a toolrunner begins with.

    Raises ProtocolError for anything else, and for a connection that ends before.
    """
    loop = asyncio.get_running_loop()
    parser = FrameParser(frozenset({Kind.HELLO}))
    while data := await loop.sock_recv(end, 4096):
        for _, _, payload in parser.feed(data):
            Hello.parse(payload)  # before a template is made of whoever said it
            return payload
    raise ProtocolError("the channel was closed before the toolrunner said HELLO")
