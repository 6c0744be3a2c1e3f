"""One Firecracker process: started, spoken to, and removed without trace."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ...process import ChildProcess
from ..output import LogFile, Output
from ..vm import Place
from . import requests
from .api import ANSWER_S, Api
from .requests import Request
from .root import Published, Root
from .unix import connect_unix

SOCKET_TIMEOUT_S = 5.0
FLUSH_TIMEOUT_S = 0.2
START_TIMEOUT_S = 10.0
"""For InstanceStart and a snapshot's load, which read whole files."""
_SLOW = ("/actions", "/snapshot/load")


class Monitor:
    """A running Firecracker. Every step raises SandboxError `sandbox_crash`."""

    def __init__(self, place: Place, root: Root, undo: ExitStack) -> None:
        self.root = root
        self.api = Api(root.path / requests.API_SOCKET)
        self.vsock = root.path / requests.VSOCK
        self._metrics = place.metrics_path is not None
        self._undo = undo
        self._outputs: dict[str, Output] = {}
        self._process: ChildProcess | None = None

    @classmethod
    async def start(
        cls, place: Place, root: Root, jailer: Path | None, largest_file: int
    ) -> Monitor:
        """Start it in `root`, which holds its files, and wait for its API.

        Whatever happens, `root` is removed with it.
        """
        undo = ExitStack()
        undo.callback(root.remove)
        monitor = cls(place, root, undo)
        try:
            monitor._launch(place, root.command(jailer, largest_file))
            await monitor._wait_for_api()
            monitor._publish(place)
        except (OSError, subprocess.SubprocessError) as error:
            await monitor.stop()
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH, f"Firecracker could not be started: {error}"
            ) from error
        except BaseException:
            await monitor.stop()
            raise
        return monitor

    @property
    def process(self) -> ChildProcess:
        assert self._process is not None, "start() gives out no monitor without its process"
        return self._process

    @property
    def pid(self) -> int:
        """Of Firecracker itself, which under the jailer is a child of our child."""
        if self.root.user is None:
            return self.process.pid
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(OSError, ValueError):
            return int(children.read_text().split()[0])
        return self.process.pid

    async def tell(self, steps: Iterable[Request]) -> None:
        """Make these requests, in order."""
        for step in steps:
            timeout_s = START_TIMEOUT_S if step.target in _SLOW else ANSWER_S
            await self.api.request(step.method, step.target, step.body, timeout_s)

    def said(self) -> str:
        """The end of the console, the log and standard error."""
        parts = [self._outputs[name].tail() for name in ("log", "console") if name in self._outputs]
        return "\n".join(filter(None, [self.process.stderr(), *parts]))

    async def stop(self) -> None:
        """End it and remove its files. Safe to call twice."""
        try:
            if self._process is not None:
                await self._end(self._process)
        finally:
            self._undo.close()

    async def _end(self, process: ChildProcess) -> None:
        if self._metrics and not process.ended.done():
            flush = {"action_type": "FlushMetrics"}
            with suppress(SandboxError):
                await self.api.put("/actions", flush, FLUSH_TIMEOUT_S)
        process.kill()
        await asyncio.shield(process.ended)

    def _launch(self, place: Place, command: list[str]) -> None:
        self._listen("log", place.log_path)
        if place.metrics_path is not None:
            self._listen("metrics", place.metrics_path)
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._keep("console", Output(reader))
            self._process = ChildProcess(
                command,
                pass_fds=(),
                environment={},
                groups=place.groups,
                directory=str(self.root.path),
                stdout=writer,
            )
        finally:
            os.close(writer)
        self._undo.callback(self._process.close)

    def _listen(self, name: str, path: Path | None) -> None:
        """Read what it writes to its FIFO of this name; to be kept at `path`, if anywhere."""
        file = None if path is None else LogFile(path)
        self._keep(name, Output(self.root.pipe(name), file))

    def _keep(self, name: str, output: Output) -> None:
        self._outputs[name] = output
        self._undo.callback(output.close)

    async def _wait_for_api(self) -> None:
        deadline = time.monotonic() + SOCKET_TIMEOUT_S
        pause = 0.001
        while True:
            try:
                (await connect_unix(self.root.path / requests.API_SOCKET)).close()
                return
            except OSError as error:
                ended = self.process.ended.done()
                if ended or time.monotonic() > deadline:
                    what = "ended" if ended else "opened no API socket"
                    said = self.said() or "nothing"
                    raise SandboxError(
                        ErrorCode.SANDBOX_CRASH, f"Firecracker {what} at its start; it said: {said}"
                    ) from error
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.02)

    def _publish(self, place: Place) -> None:
        chosen = (
            ("api_socket", place.api_socket, requests.API_SOCKET),
            ("vsock.uds_path", place.vsock_path, requests.VSOCK),
        )
        for field, path, name in chosen:
            if path is not None:
                self._undo.callback(Published(path, self.root.path / name, field).remove)
