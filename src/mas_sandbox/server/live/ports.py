"""Servers inside the named sandboxes: which there are, and connections to them. What a policy
says of the tool `ports` decides; each connection is recorded."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from mas_sandbox.api.ports import ListeningPort
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import CHUNK, Kind
from mas_sandbox.wire.isolation import PROXY_PORT
from mas_sandbox.wire.messages import Call

from .abandon import abandon
from .failure import nonsense

if TYPE_CHECKING:
    from mas_sandbox.runtimes.live import LiveStream

    from ..broker import Broker, Operation
    from ..calls import Caller

MAX_CONNECTIONS = 64
"""To the servers of one sandbox at once; each is a process inside."""
STALLED_S = 300.0
_MAX_LIST = 1024 * 1024
_UNBOUNDED = 1 << 62
"""Output that goes straight on to a client is held by credit, not by a count."""
_LISTENING = TypeAdapter(tuple[ListeningPort, ...])


class BadGateway(SandboxError):
    """The server inside broke off, or answered what makes no sense."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.TOOL_FAILED, message)


class Connection:
    """A byte stream to one server. One task may read while another one writes."""

    def __init__(self, stream: LiveStream) -> None:
        self._stream = stream
        self._ahead = b""

    async def opened(self) -> None:
        """Return once the server is there. Raises SandboxError as `read` does."""
        item = await self._stream.read()
        if item is None:
            await self._check()
        elif item[0] is Kind.STDOUT:
            self._ahead = item[1]

    async def read(self) -> bytes:
        """The next bytes; empty once the server has ended its direction, and with it the
        connection.

        Raises SandboxError: `not_found` where nothing listens, BadGateway where the server
        broke off, and what ends a sandbox.
        """
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        while (item := await self._stream.read()) is not None:
            if item[0] is Kind.STDOUT:
                return item[1]
        await self._check()
        return b""

    async def write(self, data: bytes) -> None:
        """Write all of it, as fast as the server reads; nothing where the connection is over,
        of which `read` tells. Raises SandboxError `timeout` where the server has long taken
        nothing: while it does not, nobody learns that the client has gone."""
        for start in range(0, len(data), CHUNK):
            try:
                async with asyncio.timeout(STALLED_S):
                    await self._stream.write(data[start : start + CHUNK])
            except TimeoutError as error:
                raise SandboxError(
                    ErrorCode.TIMEOUT, f"the server has taken nothing for {STALLED_S:g} s"
                ) from error
            except SandboxError:
                return

    def write_eof(self) -> None:
        """End our direction."""
        self._stream.write_eof()

    async def _check(self) -> None:
        result = await self._stream.result
        if result.reason == "not_found":
            raise SandboxError(ErrorCode.NOT_FOUND, result.message)
        if result.code == ErrorCode.TOOL_FAILED:
            raise BadGateway(result.message)
        if result.code:
            raise SandboxError(ErrorCode(result.code), result.message)


class Ports:
    """The servers of every named sandbox. All of it raises SandboxError: what the policy says,
    and what a sandbox answers."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._open: Counter[str] = Counter()

    async def list(self, caller: Caller, sandbox_id: str) -> tuple[ListeningPort, ...]:
        """What listens, by port; not the way out, which is no server."""
        async with self._broker.operation(caller, sandbox_id, "ports", {}) as operation:
            allowed = operation.plan.call
            call = _call(operation, "ports", {}, allowed.timeout_ms, _MAX_LIST)
            outcome = await operation.named.sandbox.run(call)
            if outcome.code is not None:
                raise SandboxError(outcome.code, outcome.message)
            try:
                found = _LISTENING.validate_python(outcome.value)
            except ValidationError as error:
                raise nonsense("ports") from error
        return tuple(each for each in found if each.port != PROXY_PORT)

    @asynccontextmanager
    async def connection(
        self, caller: Caller, sandbox_id: str, port: int
    ) -> AsyncIterator[Connection]:
        """A connection to whatever listens on `port`, while the block runs. Whether something
        does is known when it has been read from, or `opened`."""
        async with self._broker.operation(caller, sandbox_id, "ports", {"port": port}) as operation:
            refuse_way_out(port)
            stream = self._stream(operation, port)
            try:
                yield Connection(stream)
            finally:
                abandon(stream)

    def _stream(self, operation: Operation, port: int) -> LiveStream:
        name = operation.named.id
        if self._open[name] >= MAX_CONNECTIONS:
            raise SandboxError(
                ErrorCode.OVERLOADED,
                f"{MAX_CONNECTIONS} connections to servers in this sandbox are open; end one",
            )
        call = _call(operation, "connect", {"port": port}, 0, _UNBOUNDED)
        stream = operation.named.sandbox.channel.stream(call)
        self._open[name] += 1
        stream.result.add_done_callback(lambda _: self._closed(name))
        return stream

    def _closed(self, name: str) -> None:
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]


def refuse_way_out(port: int) -> None:
    """The sandbox's own proxy would let others out by its name. Raises SandboxError."""
    if port == PROXY_PORT:
        raise SandboxError(
            ErrorCode.NOT_FOUND,
            f"port {PROXY_PORT} is the sandbox's way out, no server; choose another",
        )


def _call(
    operation: Operation, tool: str, args: Mapping[str, Any], timeout_ms: int, output_bytes: int
) -> Call:
    allowed = operation.plan.call
    return Call(
        f"sandbox.{tool}",
        dict(args),
        timeout_ms=timeout_ms,
        cpu_ms=allowed.cpu_ms,
        output_bytes=output_bytes,
        nofile=allowed.nofile,
        cwd=allowed.cwd,
        paths=allowed.paths,
    )
