"""The only resolver that a machine can ask: on its own link, for names it is allowed.

A name that it is not allowed is "no such name" at once, and never leaves the host, so that
nothing can be told to the world in names. The others are looked up as the host itself
would, and of their addresses only those are told that the machine may reach.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack, suppress
from ipaddress import IPv4Address
from types import TracebackType
from typing import Self

from mas_sandbox.egress.host import Host
from mas_sandbox.egress.refusal import Refused
from mas_sandbox.egress.resolve import Lookups, system_resolver
from mas_sandbox.egress.resolve import Resolver as LookUp

from . import dns
from .reach import Reach

PORT = 53
CONNECTION_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 4
MAX_TASKS = 16
"""Connections, and questions over UDP, that are being answered at once."""


class Resolver(asyncio.DatagramProtocol):
    """Serves UDP and TCP at one address of one device until its context is left."""

    def __init__(self, reach: Reach, look_up: LookUp = system_resolver) -> None:
        self._reach = reach
        self._lookups = Lookups(look_up)
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._undo = AsyncExitStack()
        self._transport: asyncio.DatagramTransport | None = None

    async def listen(self, address: IPv4Address, device: str | None, port: int = PORT) -> None:
        """`device`: no packet from any other is taken. Raises OSError."""
        loop = asyncio.get_running_loop()
        async with AsyncExitStack() as undo:
            datagrams = _bound(socket.SOCK_DGRAM, address, device, port, undo)
            transport, _ = await loop.create_datagram_endpoint(lambda: self, sock=datagrams)
            undo.callback(transport.close)
            self._transport = transport
            stream = _bound(socket.SOCK_STREAM, address, device, port, undo)
            server = await asyncio.start_server(self._accept, sock=stream, limit=4096)
            undo.callback(server.close)
            undo.callback(self._cancel)
            self._undo = undo.pop_all()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if len(self._tasks) < MAX_TASKS:  # else it asks again
            self._spawn(self._reply(data, addr))

    async def answer(self, data: bytes) -> bytes | None:
        """What to say to these bytes; None for nothing."""
        try:
            query = dns.parse(data)
        except dns.BadQuery as bad:
            return bad.reply
        if not query.name or not self._reach.resolves(query.name):
            return dns.answer(query, dns.Code.NO_SUCH_NAME)
        if query.type != dns.A:  # of an allowed name too, nothing but addresses is told
            return dns.answer(query, dns.Code.NO_ERROR)
        try:
            found = await self._lookups.addresses(Host(query.name))
        except Refused as refused:
            cause = refused.__cause__
            absent = isinstance(cause, socket.gaierror) and cause.errno in _ABSENT
            return dns.answer(query, dns.Code.NO_SUCH_NAME if absent else dns.Code.SERVER_FAILURE)
        blocks = self._reach.blocks
        told = [
            each
            for each in found
            if isinstance(each, IPv4Address) and any(each in block for block in blocks)
        ]
        return dns.answer(query, dns.Code.NO_ERROR, told)

    async def _reply(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = await self.answer(data)
        if reply is not None and self._transport is not None:
            self._transport.sendto(reply, addr)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= MAX_CONNECTIONS:
            writer.close()
        else:
            self._connections += 1
            self._spawn(self._serve(reader, writer))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: messages with their lengths before them (RFC 1035, 4.2.2)."""
        try:
            with suppress(OSError, TimeoutError, EOFError):
                async with asyncio.timeout(CONNECTION_TIMEOUT_S):
                    while await self._exchange(reader, writer):
                        pass
        finally:
            self._connections -= 1
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        length = int.from_bytes(await reader.readexactly(2))
        if length > dns.MAX_QUERY:
            return False
        reply = await self.answer(await reader.readexactly(length))
        if reply is None:
            return False
        writer.write(len(reply).to_bytes(2) + reply)
        await writer.drain()
        return True

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._undo.aclose()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _bound(
    kind: socket.SocketKind,
    address: IPv4Address,
    device: str | None,
    port: int,
    undo: AsyncExitStack,
) -> socket.socket:
    bound = socket.socket(socket.AF_INET, kind)
    undo.callback(bound.close)
    bound.setblocking(False)
    if device is not None:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    if kind is socket.SOCK_STREAM:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((str(address), port))
    return bound


_ABSENT = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))
