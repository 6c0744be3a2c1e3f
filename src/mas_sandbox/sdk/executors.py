"""`ToolExecutor`, what an agent needs to run tools, and `SandboxExecutor`, its HTTP kind."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self, Unpack

from mas_sandbox.api.models import ToolInfo

from .async_client import AsyncClient
from .calls import CallOptions
from .client import Client
from .result import ToolResult


class ToolExecutor(Protocol):
    """Runs tools somewhere: `LocalExecutor`, `SandboxExecutor`, `Client`, or a test's own.

    `execute` returns failed calls as results (see `ToolResult`) and raises `CallError`
    for requests that never became calls.
    """

    def execute(
        self, tool: str, args: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> ToolResult: ...

    def tools(self) -> tuple[ToolInfo, ...]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class AsyncToolExecutor(Protocol):
    """`ToolExecutor` for asyncio."""

    async def execute(
        self, tool: str, args: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> ToolResult: ...

    async def tools(self) -> tuple[ToolInfo, ...]: ...

    async def aclose(self) -> None: ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class SandboxExecutor:
    """Runs each call over HTTP, in `sandbox_id` where a call names no other.

    Without `client` it makes one from MAS_SANDBOX_URL and MAS_SANDBOX_TOKEN; `close`
    closes the client in both cases.
    """

    def __init__(self, client: Client | None = None, *, sandbox_id: str | None = None) -> None:
        self.client = client or Client()
        self._sandbox_id = sandbox_id

    def execute(
        self, tool: str, args: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> ToolResult:
        """Run one tool; see `Client.execute`."""
        options.setdefault("sandbox_id", self._sandbox_id)
        return self.client.execute(tool, args, **options)

    def tools(self) -> tuple[ToolInfo, ...]:
        """The tools that the caller's policy allows."""
        return self.client.tools()

    def close(self) -> None:
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncSandboxExecutor:
    """`SandboxExecutor` for asyncio."""

    def __init__(self, client: AsyncClient | None = None, *, sandbox_id: str | None = None) -> None:
        self.client = client or AsyncClient()
        self._sandbox_id = sandbox_id

    async def execute(
        self, tool: str, args: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> ToolResult:
        """Run one tool; see `AsyncClient.execute`."""
        options.setdefault("sandbox_id", self._sandbox_id)
        return await self.client.execute(tool, args, **options)

    async def tools(self) -> tuple[ToolInfo, ...]:
        """The tools that the caller's policy allows."""
        return await self.client.tools()

    async def aclose(self) -> None:
        await self.client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
