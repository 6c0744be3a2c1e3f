"""The resolver over real sockets, at loopback addresses and a port of its own."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, ip_address

import pytest

from doubles.raw_guest import query
from mas_sandbox.egress.host import Address
from mas_sandbox.egress.resolve import AT_ONCE
from mas_sandbox.egress.resolve import Resolver as LookUp
from mas_sandbox.runtimes.microvm.tap import resolver as module
from mas_sandbox.runtimes.microvm.tap.reach import Reach
from mas_sandbox.runtimes.microvm.tap.resolver import Resolver

pytestmark = pytest.mark.anyio
REACH = Reach((IPv4Network("203.0.113.0/24"),), (443,), (("*.example.org", "localhost"),))
HOME = IPv4Address("127.0.0.1")


class Book:
    """A book of names, and who asked for what."""

    def __init__(self, *addresses: str, error: OSError | None = None, waits: bool = False) -> None:
        self.asked: list[str] = []
        self._addresses: list[Address] = [ip_address(address) for address in addresses]
        self._error = error
        self.answers = asyncio.Event()
        if not waits:
            self.answers.set()

    async def look_up(self, name: str) -> list[Address]:
        self.asked.append(name)
        await self.answers.wait()
        if self._error is not None:
            raise self._error
        return self._addresses


@asynccontextmanager
async def serving(lookup: LookUp) -> AsyncIterator[int]:
    with socket.socket() as free:
        free.bind((str(HOME), 0))
        port = free.getsockname()[1]
    async with Resolver(REACH, lookup) as resolver:
        await resolver.listen(HOME, None, port)
        yield port


async def ask(port: int, data: bytes, timeout_s: float = 5) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.setblocking(False)
        asker.connect((str(HOME), port))
        asker.send(data)
        async with asyncio.timeout(timeout_s):
            return await asyncio.get_running_loop().sock_recv(asker, 4096)


def told(reply: bytes) -> tuple[int, int]:
    """RCODE, and how many addresses."""
    return reply[3] & 15, struct.unpack_from("!H", reply, 6)[0]


async def test_only_addresses_that_can_be_reached_are_told() -> None:
    book = Book("203.0.113.9", "10.0.0.1", "2001:db8::1", "203.0.113.8")
    async with serving(book.look_up) as port:
        reply = await ask(port, query("API.example.org"))
    assert told(reply) == (0, 2)
    assert reply.endswith(IPv4Address("203.0.113.8").packed)
    assert book.asked == ["api.example.org"]


async def test_foreign_names_never_leave() -> None:
    book = Book("203.0.113.9")
    async with serving(book.look_up) as port:
        for name in ("secret.evil.example", "example.org", "aexample.org", "example.org.evil.test"):
            assert told(await ask(port, query(name))) == (3, 0)
        for kind in (2, 5, 15, 16, 28, 255):
            assert told(await ask(port, query("api.example.org", kind))) == (0, 0)
    assert book.asked == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (socket.gaierror(socket.EAI_NONAME, "unknown"), 3),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), 2),
        (OSError("broken"), 2),
    ],
)
async def test_a_lookup_that_fails_is_told(error: OSError, code: int) -> None:
    async with serving(Book(error=error).look_up) as port:
        assert told(await ask(port, query("api.example.org"))) == (code, 0)


async def test_so_many_lookups_are_under_way_and_no_more() -> None:
    book = Book(waits=True)
    before = len(asyncio.all_tasks())
    async with serving(book.look_up) as port:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            for _ in range(100):
                asker.sendto(query("api.example.org"), (str(HOME), port))
        await asyncio.sleep(0.2)
        assert len(book.asked) == AT_ONCE
        # Each question that is being answered is a task, and each of the lookups.
        assert len(asyncio.all_tasks()) <= before + 2 * module.MAX_TASKS
        book.answers.set()


async def test_questions_come_over_tcp_as_well() -> None:
    async with serving(Book("203.0.113.9").look_up) as port:
        reader, writer = await asyncio.open_connection(str(HOME), port)
        for _ in range(3):
            data = query("api.example.org")
            writer.write(len(data).to_bytes(2) + data)
            reply = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            assert told(reply) == (0, 1)
        writer.write(b"\xff\xff" + bytes(100))  # more than a question has
        assert await reader.read() == b""
        writer.close()


async def test_idle_connections_are_few_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTION_TIMEOUT_S", 0.3)
    async with serving(Book("203.0.113.9").look_up) as port:
        opened = [
            await asyncio.open_connection(str(HOME), port) for _ in range(module.MAX_CONNECTIONS)
        ]
        refused, writer = await asyncio.open_connection(str(HOME), port)
        async with asyncio.timeout(0.2):
            assert await refused.read() == b""
        writer.close()
        for reader, writer in opened:
            assert await reader.read() == b""
            writer.close()


async def test_nothing_runs_on_after_the_end() -> None:
    book = Book(waits=True)
    before = asyncio.all_tasks()
    async with serving(book.look_up) as port:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.sendto(query("api.example.org"), (str(HOME), port))
        _, writer = await asyncio.open_connection(str(HOME), port)
        await asyncio.sleep(0.1)
        assert book.asked
    writer.close()
    book.answers.set()
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(str(HOME), port)
