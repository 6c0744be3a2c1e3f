"""`AsyncLocalExecutor`: `LocalExecutor` for asyncio."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from mas_sandbox.api.models import ToolInfo

from .async_local_daemon import AsyncLocalDaemon
from .calls import CallOptions, encode, line_body
from .daemon_command import daemon_command, daemon_flags
from .http import DEFAULT_TIMEOUT_S
from .local import no_answer
from .result import ToolResult


class AsyncLocalExecutor:
    """`LocalExecutor` for asyncio: the same arguments and errors, awaited.

        async with AsyncLocalExecutor(keep_alive=True) as executor:
            await executor.execute("bash", {"command": "echo hello"})

    A kept process belongs to the event loop of its first call. Cancelling the task
    that waits for a call ends its process; a kept one lives on, and its call ends at
    the policy's timeout.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        keep_alive: bool = False,
        runtime: str | None = None,
        policy_file: str | os.PathLike[str] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        chosen = daemon_command() if command is None else command
        self._command = [*chosen, *daemon_flags(runtime, policy_file)]
        self._keep_alive = keep_alive
        self._timeout_s = timeout
        self._kept: AsyncLocalDaemon | None = None
        self._starting = asyncio.Lock()

    async def execute(
        self, tool: str, args: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> ToolResult:
        """Run one tool; see `CallOptions` for what may go with it."""
        call_id = options.get("tool_call_id") or uuid.uuid4().hex
        line = encode(line_body(call_id, tool, args, options))
        if self._keep_alive:
            return await self._wait(await self._running_daemon(), call_id, line)
        daemon = await AsyncLocalDaemon.start(self._command)
        try:
            return await self._wait(daemon, call_id, line, last=True)
        finally:
            # Shielded: a second cancellation must not leave the process half ended.
            await asyncio.shield(asyncio.create_task(daemon.close()))

    async def tools(self) -> tuple[ToolInfo, ...]:
        """The built-in tools. Whether a policy allows one is decided call by call."""
        from mas_sandbox.api.catalog import BUILTIN_TOOLS

        return BUILTIN_TOOLS

    async def aclose(self) -> None:
        """End the kept process; calls that are still running fail with DaemonLost."""
        async with self._starting:
            daemon, self._kept = self._kept, None
        if daemon is not None:
            await daemon.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _running_daemon(self) -> AsyncLocalDaemon:
        async with self._starting:
            if self._kept is not None and self._kept.ended:
                await self._kept.close()
                self._kept = None
            if self._kept is None:
                self._kept = await AsyncLocalDaemon.start(self._command)
            return self._kept

    async def _wait(
        self, daemon: AsyncLocalDaemon, call_id: str, line: bytes, *, last: bool = False
    ) -> ToolResult:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await daemon.call(call_id, line, last=last)
        except TimeoutError as exc:
            raise no_answer(self._timeout_s) from exc
