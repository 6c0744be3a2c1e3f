"""`AsyncClient`: `Client` for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from mas_sandbox.api.models import Health, RuntimeInfo, RuntimeList, ToolInfo, ToolList

from . import http
from .asked import Asked, lives
from .async_connection import AsyncConnection
from .calls import CallOptions, http_body
from .result import ToolResult

if TYPE_CHECKING:
    import httpx2

    from mas_sandbox.api.sandboxes import SandboxInfo, State

    from .async_sandbox import AsyncSandbox


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods and errors, awaited.

        async with AsyncClient() as client:
            print((await client.execute("bash", {"command": "echo hello"})).result)

    Cancelling the task that waits for a call closes its connection, and the daemon
    ends the call, unless it has an `idempotency_key`.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = http.DEFAULT_TIMEOUT_S,
        retries: int = 0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.connection = AsyncConnection(
            url, token, timeout=timeout, retries=retries, transport=transport
        )
        self.url = self.connection.url

    async def execute(
        self, tool: str, args: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> ToolResult:
        """Run one tool; see `CallOptions` for what may go with it.

        Returns failed calls too: `result.ok` tells, `result.raise_for_error()` raises.
        """
        body = http_body(tool, args, options)
        key = options.get("idempotency_key")
        return await self.connection.ask(Asked("POST", http.EXECUTE, ToolResult, body, key))

    @asynccontextmanager
    async def sandbox(self, **options: Unpack[lives.SandboxOptions]) -> AsyncIterator[AsyncSandbox]:
        """A sandbox for the length of an `async with` block.

        async with client.sandbox() as sandbox:
            await sandbox.execute("write_file", {"path": "a.txt", "content": "hello"})
            await sandbox.execute("read_file", {"path": "a.txt"})
        """
        from .async_sandbox import AsyncSandbox

        async with AsyncSandbox(self, await self.open_sandbox(**options), ends=True) as sandbox:
            yield sandbox

    async def open_sandbox(self, **options: Unpack[lives.SandboxOptions]) -> SandboxInfo:
        """Start a sandbox that lives until its time is over, it is idle, or it is destroyed."""
        return await self.connection.ask(lives.opened(options))

    async def sandboxes(
        self, *, metadata: Mapping[str, str] | None = None, states: Sequence[State] = ()
    ) -> AsyncIterator[SandboxInfo]:
        """The caller's sandboxes, newest first, page by page. `metadata`: what theirs must
        hold; `states`: running, paused and interrupted where none are given."""
        cursor = None
        while True:
            page = await self.connection.ask(lives.page(metadata, states, cursor))
            for each in page.sandboxes:
                yield each
            cursor = page.next_cursor
            if cursor is None:
                return

    async def sandbox_info(self, sandbox_id: str) -> SandboxInfo:
        """How a sandbox is, or how it ended; raises NotFound when there is none of that id."""
        return await self.connection.ask(lives.about(sandbox_id))

    async def extend(self, sandbox_id: str, timeout_s: int) -> SandboxInfo:
        """Let a sandbox live for so long from now on."""
        return await self.connection.ask(lives.changed(sandbox_id, "extend", timeout_s))

    async def pause(self, sandbox_id: str) -> SandboxInfo:
        """Stop everything in a sandbox where it stands; raises InvalidRequest while calls run."""
        return await self.connection.ask(lives.changed(sandbox_id, "pause"))

    async def resume(self, sandbox_id: str, timeout_s: int | None = None) -> SandboxInfo:
        """Let a paused sandbox go on, for `timeout_s` where that is given."""
        return await self.connection.ask(lives.changed(sandbox_id, "resume", timeout_s))

    async def destroy(self, sandbox_id: str) -> SandboxInfo:
        """End a sandbox and all it holds; raises NotFound when there is none of that id."""
        return await self.connection.ask(lives.ended(sandbox_id))

    async def health(self) -> Health:
        """How the daemon is: version, runtime, isolation, calls running and waiting."""
        return await self.connection.ask(Asked("GET", http.HEALTH, Health))

    async def tools(self) -> tuple[ToolInfo, ...]:
        """The tools that the caller's policy allows, described for a model."""
        return (await self.connection.ask(Asked("GET", http.TOOLS, ToolList))).tools

    async def runtimes(self) -> tuple[RuntimeInfo, ...]:
        """The daemon's runtimes, weakest first, with what its host enforces in each."""
        return (await self.connection.ask(Asked("GET", http.RUNTIMES, RuntimeList))).runtimes

    async def aclose(self) -> None:
        """Close the connections. Named sandboxes live on in the daemon."""
        await self.connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
