"""`sandbox.processes` for asyncio."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Unpack

from mas_sandbox.api.live import Started

from .asked import processes as asked
from .async_stream import AsyncStream
from .errors import ToolFailed
from .events import PROCESS, Happened
from .finished import Collecting, Finished

if TYPE_CHECKING:
    from mas_sandbox.api.live import OnDisconnect, ProcessInfo

    from .async_attachment import AsyncAttachment
    from .async_connection import AsyncConnection


class AsyncProcess:
    """One process of a sandbox. Iterating over it tells its events from its beginning.

    `pid`, `tag`: what it is known by; `info`: how it was when it was last asked about.
    """

    def __init__(
        self,
        connection: AsyncConnection,
        sandbox_id: str,
        info: ProcessInfo,
        on_disconnect: OnDisconnect = "detach",
    ) -> None:
        self._connection = connection
        self._sandbox_id = sandbox_id
        self._on_disconnect = on_disconnect
        self.info = info
        self.pid = info.pid
        self.tag = info.tag

    def events(self, from_offset: int = 0) -> AsyncStream[Happened]:
        """What it has written so far, from an offset on, what it writes, and its exit.

        `Started` first; `Output` with `type`, `offset` and `data` in bytes; `Gap` where
        output is no longer kept; `Exited` last.
        """
        path = self._attached("events", from_offset)
        return AsyncStream(self._connection.events("GET", path, PROCESS))

    async def attach(self, from_offset: int = 0) -> AsyncAttachment:
        """The same over a WebSocket, which takes input as well."""
        return await _attachment(self._connection, self._attached("ws", from_offset))

    async def write(self, data: bytes | str) -> None:
        """Write all of it to its standard input, as fast as it reads. Raises ToolFailed where
        that has been closed, or the process has ended."""
        content = data.encode() if isinstance(data, str) else data
        request = asked.stdin(self._sandbox_id, self.pid, content)
        self.info = await self._connection.ask(request, waits_s=math.inf)

    async def close_stdin(self) -> None:
        """Let it read the end of its standard input."""
        self.info = await self._connection.ask(
            asked.stdin(self._sandbox_id, self.pid, b"", eof=True)
        )

    async def signal(self, signal: str | int) -> None:
        """Send `SIGINT`, or another by name or number, to its process group; nothing where
        it has ended."""
        self.info = await self._connection.ask(asked.signalled(self._sandbox_id, self.pid, signal))

    async def resize(self, rows: int, cols: int) -> None:
        """Tell its terminal its size; raises InvalidRequest where it has none."""
        self.info = await self._connection.ask(
            asked.resized(self._sandbox_id, self.pid, rows, cols)
        )

    async def wait(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - the daemon counts them
    ) -> ProcessInfo:
        """How it ended; or how it is after `timeout` seconds: `state` is `running` then."""
        deadline = asked.Deadline(timeout)
        while True:
            request = asked.waited(self._sandbox_id, self.pid, deadline.left())
            self.info = await self._connection.ask(request, waits_s=asked.MAX_WAIT_S)
            if self.info.state == "exited" or deadline.left() <= 0:
                return self.info

    async def kill(self) -> ProcessInfo:
        """End it and all that it started."""
        self.info = await self._connection.ask(asked.killed(self._sandbox_id, self.pid))
        return self.info

    async def refresh(self) -> ProcessInfo:
        """How it is now."""
        self.info = await self._connection.ask(asked.about(self._sandbox_id, self.pid))
        return self.info

    def __aiter__(self) -> AsyncIterator[Happened]:
        return self.events()

    def __repr__(self) -> str:
        return f"<AsyncProcess {self.pid} {self.tag or self.info.cmd or list(self.info.argv)!r}>"

    def _attached(self, action: str, from_offset: int) -> str:
        return asked.attached(self._sandbox_id, self.pid, action, from_offset, self._on_disconnect)


class AsyncProcesses:
    """The processes of one sandbox. They outlive the request that started them, and this
    program, and never their sandbox."""

    def __init__(self, connection: AsyncConnection, sandbox_id: str) -> None:
        self._connection = connection
        self._sandbox_id = sandbox_id

    async def start(
        self,
        command: str | Sequence[str],
        *,
        pty: tuple[int, int] | None = None,
        tag: str | None = None,
        on_disconnect: OnDisconnect = "detach",
        **options: Unpack[asked.CommandOptions],
    ) -> AsyncProcess:
        """Start a program, or a command for a shell.

        `pty`: a terminal of so many rows and columns instead of pipes; `tag`: a name of your
        own to find it by; `on_disconnect`: what becomes of it when whoever reads its events
        goes away, `detach` or `cancel`; see `CommandOptions` for the rest.
        """
        body = asked.start_body(command, options, pty=pty, tag=tag, on_disconnect=on_disconnect)
        info = await self._connection.ask(asked.start(self._sandbox_id, body))
        return AsyncProcess(self._connection, self._sandbox_id, info, on_disconnect)

    def stream(
        self,
        command: str | Sequence[str],
        *,
        stdin: bool = False,
        tag: str | None = None,
        on_disconnect: OnDisconnect = "cancel",
        **options: Unpack[asked.CommandOptions],
    ) -> AsyncStream[Happened]:
        """Start a program and tell its events, none of which is missed: `Started`, with its
        pid, is the first. `stdin`: whether something will be written to it."""
        body = asked.start_body(command, options, tag=tag, stdin=stdin, on_disconnect=on_disconnect)
        path = asked.processes_path(self._sandbox_id)
        return AsyncStream(self._connection.events("POST", path, PROCESS, body))

    async def open(
        self,
        command: str | Sequence[str],
        *,
        pty: tuple[int, int] | None = None,
        tag: str | None = None,
        on_disconnect: OnDisconnect = "cancel",
        **options: Unpack[asked.CommandOptions],
    ) -> AsyncAttachment:
        """Start a program at the other end of a WebSocket, to read and to write; `Started` is
        the first of its events, and none is missed."""
        body = asked.start_body(command, options, pty=pty, tag=tag, on_disconnect=on_disconnect)
        path = asked.processes_path(self._sandbox_id) + "/ws"
        return await (await _attachment(self._connection, path)).begin(body)

    async def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes | str | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        **options: Unpack[asked.CommandOptions],
    ) -> Finished:
        """Run a program to its end; see `AsyncSandbox.run`."""
        content = stdin.encode() if isinstance(stdin, str) else stdin
        collecting = Collecting(on_stdout, on_stderr)
        async with self.stream(command, stdin=bool(content), **options) as events:
            started = await anext(events)
            async with self._feeding(started, content):
                async for event in events:
                    collecting.take(event)
        return collecting.finished()

    @asynccontextmanager
    async def _feeding(self, started: Happened, content: bytes | None) -> AsyncIterator[None]:
        """Writes to a process while its output is read, for it may do both by turns."""
        if not content or not isinstance(started, Started):
            yield
            return
        request = asked.stdin(self._sandbox_id, started.pid, content, eof=True)

        async def feed() -> None:
            # What it does not read is its own affair.
            with suppress(ToolFailed):
                await self._connection.ask(request, waits_s=math.inf)

        feeding = asyncio.create_task(feed())
        try:
            yield
            await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)

    async def list(self) -> tuple[ProcessInfo, ...]:
        """Those that run, then the last that have ended."""
        return (await self._connection.ask(asked.listed(self._sandbox_id))).processes

    async def get(self, pid_or_tag: int | str) -> AsyncProcess:
        """One of them; raises NotFound."""
        info = await self._connection.ask(asked.about(self._sandbox_id, pid_or_tag))
        return AsyncProcess(self._connection, self._sandbox_id, info)


async def _attachment(connection: AsyncConnection, path: str) -> AsyncAttachment:
    from .async_attachment import AsyncAttachment

    return AsyncAttachment(await connection.socket(path), connection.url)
