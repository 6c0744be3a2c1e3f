"""`AsyncSandbox`: `Sandbox` for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from . import http
from .async_client import AsyncClient
from .errors import CallError, NotFound

if TYPE_CHECKING:
    from mas_sandbox.api.sandboxes import SandboxInfo, State

    from .asked.lives import SandboxOptions
    from .asked.processes import CommandOptions
    from .async_code import AsyncCode
    from .async_files import AsyncFiles
    from .async_ports import AsyncPorts
    from .async_processes import AsyncProcesses
    from .calls import CallOptions
    from .finished import Finished
    from .result import ToolResult


class AsyncSandbox:
    """`Sandbox` for asyncio: the same attributes, arguments and errors, awaited.

        async with await AsyncSandbox.create() as sb:
            print((await sb.run("echo hello")).stdout)
            async with sb.files.watch() as changes:
                async for change in changes: ...

    Cancelling a task that runs a program ends the program.
    """

    def __init__(
        self, client: AsyncClient, info: SandboxInfo, *, ends: bool = False, closes: bool = False
    ) -> None:
        """`ends`, `closes`: whether leaving its `async with` block ends it, and closes `client`."""
        self._client = client
        self._ends = ends
        self._closes = closes
        self.info = info
        self.id = info.sandbox_id

    @classmethod
    async def create(
        cls,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = http.DEFAULT_TIMEOUT_S,  # noqa: ASYNC109 - of requests
        **options: Unpack[SandboxOptions],
    ) -> AsyncSandbox:
        """Start a sandbox, which the end of an `async with` block ends.

        `url`, `token` and `timeout` are those of `AsyncClient`; see `SandboxOptions` for the rest.
        Raises DaemonUnavailable where there is no daemon; PolicyDenied, PolicyUnenforceable
        and Overloaded where it starts none.
        """
        client = AsyncClient(url, token, timeout=timeout)
        try:
            return cls(client, await client.open_sandbox(**options), ends=True, closes=True)
        except BaseException:
            await client.aclose()
            raise

    @classmethod
    async def connect(
        cls,
        sandbox_id: str,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = http.DEFAULT_TIMEOUT_S,  # noqa: ASYNC109 - of requests
    ) -> AsyncSandbox:
        """A sandbox that is there, which the end of an `async with` block does not end. Raises
        NotFound; one that has ended is told of for a day."""
        client = AsyncClient(url, token, timeout=timeout)
        try:
            return cls(client, await client.sandbox_info(sandbox_id), closes=True)
        except BaseException:
            await client.aclose()
            raise

    @staticmethod
    async def list(
        url: str | None = None,
        token: str | None = None,
        *,
        metadata: Mapping[str, str] | None = None,
        states: Sequence[State] = (),
    ) -> AsyncIterator[SandboxInfo]:
        """The caller's sandboxes, newest first; see `AsyncClient.sandboxes`."""
        async with AsyncClient(url, token) as client:
            async for info in client.sandboxes(metadata=metadata, states=states):
                yield info

    async def execute(
        self, tool: str, args: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> ToolResult:
        """Call a tool in it; see `AsyncClient.execute`."""
        options["sandbox_id"] = self.id
        return await self._client.execute(tool, args, **options)

    async def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes | str | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        **options: Unpack[CommandOptions],
    ) -> Finished:
        """Run a program to its end: a string by a shell, a list as it is.

        `stdin`: what it reads, nothing where missing; `on_stdout`, `on_stderr`: told what it
        writes as it does, as text; see `CommandOptions` for `cwd`, `env`, `user` and
        `timeout` in seconds. An exit code is data: `check` raises CommandFailed. Raises
        NotFound for no such program, `CallError` where the sandbox does not live to the end.
        """
        return await self.processes.run(
            command, stdin=stdin, on_stdout=on_stdout, on_stderr=on_stderr, **options
        )

    @property
    def processes(self) -> AsyncProcesses:
        """Programs that run beside this one."""
        from .async_processes import AsyncProcesses

        return AsyncProcesses(self._client.connection, self.id)

    @property
    def files(self) -> AsyncFiles:
        """Its files."""
        from .async_files import AsyncFiles

        return AsyncFiles(self._client.connection, self.id)

    @property
    def code(self) -> AsyncCode:
        """Code that keeps its variables."""
        from .async_code import AsyncCode

        return AsyncCode(self._client.connection, self.id)

    @property
    def ports(self) -> AsyncPorts:
        """Servers inside it."""
        from .async_ports import AsyncPorts

        return AsyncPorts(self._client.connection, self.id)

    async def pause(self) -> SandboxInfo:
        """Stop everything in it where it stands; raises InvalidRequest while calls run."""
        self.info = await self._client.pause(self.id)
        return self.info

    async def resume(self, seconds: int | None = None) -> SandboxInfo:
        """Let it go on, for so long where that is given."""
        self.info = await self._client.resume(self.id, seconds)
        return self.info

    async def extend(self, seconds: int) -> SandboxInfo:
        """Let it live for so long from now on."""
        self.info = await self._client.extend(self.id, seconds)
        return self.info

    async def refresh(self) -> SandboxInfo:
        """How it is now, or how it ended."""
        self.info = await self._client.sandbox_info(self.id)
        return self.info

    async def kill(self) -> None:
        """End it and all it holds. Safe to call twice."""
        # It may have died, or been idle for too long: gone is what is asked for.
        with suppress(NotFound):
            self.info = await self._client.destroy(self.id)

    async def aclose(self) -> None:
        """Close the connections to it. It lives on."""
        if self._closes:
            await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._ends:
                await self.kill()
        except CallError:
            if error is None:  # else that is what is worth telling
                raise
        finally:
            await self.aclose()

    def __repr__(self) -> str:
        return f"<AsyncSandbox {self.id}: {self.info.runtime}, {self.info.state}>"
