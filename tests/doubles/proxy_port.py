"""A sandbox's proxy port, without the sandbox: a real socket whose connections are served.

In a sandbox the toolrunner accepts and relays each connection over the channel; here each is
handed to the egress room directly, with the same four methods. Names resolve to what the test
says and vetted addresses are dialled at servers of the test's: no packet leaves loopback,
whatever guard is missing.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from mas_sandbox.egress.decision import Decision
from mas_sandbox.egress.host import Address
from mas_sandbox.egress.session import Session
from mas_sandbox.policy.grants import NetworkPolicy

DEADLINE_S = 30.0
"""For the whole of a test: what never comes is a failure, not a hang."""


class SocketStream:
    """An accepted socket as the channel's stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self, limit: int = 65536, /) -> bytes:
        return await self._reader.read(limit)

    async def write(self, data: bytes, /) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def write_eof(self) -> None:
        if not self._writer.is_closing():
            self._writer.write_eof()

    def reset(self) -> None:
        abort(self._writer)
        self._reader.set_exception(ConnectionResetError("reset"))


def abort(writer: asyncio.StreamWriter) -> None:
    """End with a reset."""
    if not writer.is_closing():
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


class NotedReader:
    """A reader that keeps what was read."""

    def __init__(self, reader: asyncio.StreamReader, kept: bytearray) -> None:
        self._reader, self._kept = reader, kept

    async def read(self, limit: int = 65536) -> bytes:
        data = await self._reader.read(limit)
        self._kept += data
        return data

    async def head(self) -> bytes:
        data = await self._reader.readuntil(b"\r\n\r\n")
        self._kept += data
        return data


Handler = Callable[[NotedReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@dataclass
class Server:
    """A TCP server of the test's; `accepted` counts, `received` is of all connections."""

    handler: Handler
    accepted: int = 0
    received: bytearray = field(default_factory=bytearray)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            await self.handler(NotedReader(reader, self.received), writer)
        except (OSError, EOFError):
            pass  # the other end may go at any time
        finally:
            writer.close()


async def echo(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read():
        writer.write(data)
        await writer.drain()


async def unanswered(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
    """Stands for an address at which nobody answers; it is never called."""


def answering(*answers: bytes) -> Handler:
    """A server that takes a head for each of `answers`, then reads on until the end."""

    async def serve(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.head()
            writer.write(answer)
        await writer.drain()
        while await reader.read():
            continue

    return serve


@dataclass
class ProxyPort:
    """`decisions`, `resolved` and `dialled`: what was asked of each, in order.

    `names`: what each resolves to, one answer for each lookup in turn, the last one for all
    that follow; `servers`: what answers at an address; `failures`: of the handler.
    """

    names: dict[str, list[list[str]]]
    servers: dict[tuple[str, int], Server]
    session: Session = field(init=False)
    decisions: list[Decision] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)
    resolved: list[str] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    port: int = 0
    _served: set[Any] = field(default_factory=set)

    async def resolve(self, name: str) -> list[Address]:
        answers = self.names.get(name)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        answer = answers[min(self.resolved.count(name), len(answers) - 1)]
        self.resolved.append(name)
        return [ip_address(text) for text in answer]

    async def dial(self, address: Address, port: int) -> socket.socket:
        self.dialled.append((str(address), port))
        server = self.servers.get((str(address), port))
        if server is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        if server.handler is unanswered:
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")
        connection = socket.socket()
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", server.port))
        return connection

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection as the channel does."""
        stream = SocketStream(reader, writer)
        self._served.add(task := asyncio.current_task())
        try:
            await self.session.serve(stream)
            stream.write_eof()
            await received(reader)
        except asyncio.CancelledError:
            return  # the test is over; a server of asyncio's would log it as a fault
        except Exception as error:
            self.failures.append(error)
            stream.reset()
        finally:
            self._served.discard(task)
            writer.close()

    async def close(self) -> None:
        for running in self._served:
            running.cancel()
        await asyncio.gather(*self._served, return_exceptions=True)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def ask(self, *pieces: bytes, end: bool = False) -> bytes:
        """Send the pieces, and return all that comes back until the connection ends."""
        reader, writer = await self.connect()
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.01)
            if end:
                writer.write_eof()
            return await received(reader)
        finally:
            writer.close()

    async def tunnel(
        self, host: str, port: int = 443
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A CONNECT that has to succeed."""
        reader, writer = await self.connect()
        writer.write(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        return reader, writer

    @property
    def refused(self) -> list[str]:
        return [decision.rule for decision in self.decisions if not decision.allowed]


async def received(reader: asyncio.StreamReader) -> bytes:
    """All until the end, or until the reset."""
    data = b""
    try:
        while piece := await reader.read(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


@asynccontextmanager
async def proxy_port(
    network: NetworkPolicy | None,
    names: dict[str, list[list[str]]] | None = None,
    servers: dict[tuple[str, int], Handler] | None = None,
    *,
    bandwidth_kb_s: int | None = None,
    record: Callable[[Decision], None] = lambda decision: None,
) -> AsyncIterator[tuple[ProxyPort, dict[tuple[str, int], Server]]]:
    """A session of `network`, and its servers; `record` may raise."""
    port = ProxyPort(names or {}, {key: Server(one) for key, one in (servers or {}).items()})

    async def recorded(decision: Decision) -> None:
        record(decision)
        port.decisions.append(decision)

    port.session = Session(
        network, bandwidth_kb_s, recorded, resolve=port.resolve, connect=port.dial
    )
    async with AsyncExitStack() as stack, asyncio.timeout(DEADLINE_S):
        for server in port.servers.values():
            server.port = await _listen(server.serve, stack)
        port.port = await _listen(port.accept, stack)
        stack.push_async_callback(port.close)
        yield port, port.servers


async def _listen(handler: Any, stack: AsyncExitStack) -> int:
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    stack.callback(server.close)
    return int(server.sockets[0].getsockname()[1])
