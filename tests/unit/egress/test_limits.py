"""What one sandbox may use of the network, and what a narrower call takes away."""

from __future__ import annotations

import asyncio
import time

import pytest

from doubles.proxy_port import NotedReader, ProxyPort, answering, echo, proxy_port, received
from mas_sandbox.egress import client, upstream
from mas_sandbox.egress.bucket import Bucket
from mas_sandbox.egress.host import Address
from mas_sandbox.egress.resolve import AT_ONCE, system_resolver
from mas_sandbox.policy.grants import HttpRule, NetworkPolicy

pytestmark = pytest.mark.anyio

PUBLIC = "93.184.216.34"
SSH = 22
NETWORK = NetworkPolicy(hosts=("a.example.org", "b.example.org"), ports=(80, SSH))
NAMES = {"a.example.org": [[PUBLIC]], "b.example.org": [[PUBLIC]]}
SERVERS = {(PUBLIC, SSH): echo}
REQUEST = b"CONNECT a.example.org:22 HTTP/1.1\r\nHost: x\r\n\r\n"
MIB = b"\0" * 1024 * 1024


def having(**fields: object) -> NetworkPolicy:
    return NETWORK.model_copy(update=fields)


async def ended(port: ProxyPort) -> None:
    """Wait until no connection holds a place."""
    while port.session._account._open:
        await asyncio.sleep(0.01)


async def test_RX_07_connections_are_capped_and_a_place_is_given_back() -> None:
    async with proxy_port(having(max_connections=3), NAMES, SERVERS) as (port, servers):
        held = [await port.tunnel("a.example.org", SSH) for _ in range(3)]
        answer = await port.ask(REQUEST)
        assert answer.startswith(b"HTTP/1.1 429 ") and b"network.max_connections" in answer
        assert await port.ask(b"\x05\x01\x00\x05\x01\x00\x03\x0da.example.org\x00\x16") == (
            b"\x05\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00"
        )
        assert servers[PUBLIC, SSH].accepted == 3
        for _, writer in held:
            writer.close()
        await ended(port)
        await port.tunnel("a.example.org", SSH)
        assert port.refused == ["network.max_connections"] * 2


async def test_RX_07_64_connections_where_the_policy_does_not_say() -> None:
    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, _):
        held = [await port.tunnel("a.example.org", SSH) for _ in range(64)]
        assert (await port.ask(REQUEST)).startswith(b"HTTP/1.1 429 ")
        assert len(held) == port.session.connections == 64


async def test_RX_07_many_short_connections_leave_nothing_behind() -> None:
    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, servers):
        for _ in range(300):
            _, writer = await port.tunnel("a.example.org", SSH)
            writer.close()
        await ended(port)
        assert servers[PUBLIC, SSH].accepted == port.session.connections == 300


async def test_RX_07_bytes_are_capped_and_everything_is_reset() -> None:
    async with proxy_port(having(max_mb=1), NAMES, SERVERS) as (port, servers):
        other, _ = await port.tunnel("b.example.org", SSH)
        reader, writer = await port.tunnel("a.example.org", SSH)
        writer.write(MIB)
        with pytest.raises(ConnectionResetError):
            while await reader.read(65536):
                continue
        with pytest.raises(ConnectionResetError):
            await other.read(1)
        used = port.session.bytes_in + port.session.bytes_out
        assert len(MIB) - 65536 <= used <= len(MIB)
        await ended(port)
        assert port.refused == ["network.max_mb"] * 2
        assert (await port.ask(REQUEST)).startswith(b"HTTP/1.1 429 ")
        assert servers[PUBLIC, SSH].accepted == 2


async def test_the_bandwidth_is_held_over_both_directions_and_shared_evenly() -> None:
    async with proxy_port(NETWORK, NAMES, SERVERS, bandwidth_kb_s=400) as (port, _):

        async def pull(host: str) -> int:
            reader, writer = await port.tunnel(host, SSH)
            writer.write(MIB)
            count = 0
            while time.monotonic() < end:
                count += len(await reader.read(4096))
            writer.transport.abort()
            return count

        end = time.monotonic() + 1.5
        counts = await asyncio.gather(pull("a.example.org"), pull("b.example.org"))
        used = port.session.bytes_in + port.session.bytes_out
        assert used <= 400 * 1024 * 1.8
        assert used >= 400 * 1024 * 0.5
        assert max(counts) < 3 * min(counts)


async def test_a_bucket_takes_turns_and_adds_nothing_up_while_idle() -> None:
    bucket = Bucket()
    await bucket.take(10**9)
    assert bucket.piece == 65536
    bucket.rate = 100_000
    assert bucket.piece == 5000
    await asyncio.sleep(0.3)
    started = time.monotonic()
    for _ in range(6):
        await bucket.take(5000)
    assert time.monotonic() - started >= 0.3 - 0.1 - 0.02


async def test_a_client_that_does_not_say_what_it_wants_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "HEAD_S", 0.2)
    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, _):
        for beginning in (b"", b"CONNECT a.example", b"\x05\x01\x00\x05"):
            reader, writer = await port.connect()
            writer.write(beginning)
            started = time.monotonic()
            await received(reader)
            assert time.monotonic() - started < 5
        assert port.refused == ["slow client"] * 3


async def test_a_head_that_drips_is_ended_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "HEAD_S", 0.3)
    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, _):
        pieces = [b"X"] * 100
        started = time.monotonic()
        assert b" 408 " in await port.ask(b"GET http://a/ HTTP/1.1\r\n", *pieces)
        assert time.monotonic() - started < 5


async def test_a_tunnel_over_which_nothing_passes_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "IDLE_S", 1.0)
    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, _):
        reader, writer = await port.tunnel("a.example.org", SSH)
        for _ in range(15):
            writer.write(b"\0")
            assert await reader.read(1) == b"\0"
            await asyncio.sleep(0.1)
        assert await received(reader) == b""
        await ended(port)
        assert port.failures == []


async def test_lookups_of_one_sandbox_are_few_at_a_time_and_keep_their_place() -> None:
    release = asyncio.Event()
    running = 0

    async def slow(name: str) -> list[Address]:
        nonlocal running
        running += 1
        await release.wait()
        running -= 1
        return []

    async with proxy_port(NETWORK) as (port, _):
        port.session._lookups._resolve = slow
        clients = [await port.connect() for _ in range(20)]
        for _, writer in clients:
            writer.write(REQUEST)
        while running < AT_ONCE:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert running == AT_ONCE
        release.set()
        for reader, _ in clients:
            assert b"has no address" in await received(reader)
        assert running == 0


async def test_the_systems_resolver_answers_in_a_thread_of_its_own() -> None:
    assert "127.0.0.1" in map(str, await system_resolver("localhost"))
    with pytest.raises(OSError):
        await system_resolver("a" * 64)


async def test_a_call_narrows_what_new_connections_reach() -> None:
    narrow = NetworkPolicy(hosts=("b.example.org",), ports=(SSH,))
    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, _):
        with port.session.narrowed(narrow, None):
            await port.tunnel("b.example.org", SSH)
            assert b" 403 " in await port.ask(REQUEST)
            wider = NetworkPolicy(hosts=("a.example.org", "evil.org"), ports=(SSH,))
            with port.session.narrowed(wider, None):  # the intersection of all three
                for host in ("a.example.org", "b.example.org", "evil.org"):
                    assert b" 403 " in await port.ask(
                        f"CONNECT {host}:22 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
                    )
        await port.tunnel("a.example.org", SSH)


async def test_NW_02_a_call_without_a_network_reaches_nothing() -> None:
    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, _):
        with port.session.narrowed(None, None):
            assert b" 403 " in await port.ask(REQUEST)
        assert port.dialled == []


async def test_what_a_call_does_not_allow_is_cut_when_it_starts() -> None:
    narrow = NetworkPolicy(hosts=("b.example.org",), ports=(SSH,))
    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, _):
        first, _ = await port.tunnel("a.example.org", SSH)
        second, writer = await port.tunnel("b.example.org", SSH)
        with port.session.narrowed(narrow, None):
            with pytest.raises(ConnectionResetError):
                await first.read(1)
            writer.write(b"\0")
            assert await second.read(1) == b"\0"
        assert port.refused == ["network.hosts"]


async def test_a_call_that_starts_while_a_name_resolves_is_in_force_for_the_dial() -> None:
    from ipaddress import ip_address

    asked, release = asyncio.Event(), asyncio.Event()

    async def slow(name: str) -> list[Address]:
        asked.set()
        await release.wait()
        return [ip_address(PUBLIC)]

    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, _):
        port.session._lookups._resolve = slow
        reader, writer = await port.connect()
        writer.write(REQUEST)
        await asked.wait()
        with port.session.narrowed(NetworkPolicy(hosts=("b.example.org",), ports=(SSH,)), None):
            release.set()
            with pytest.raises(ConnectionResetError):
                await reader.read(1)
            await ended(port)
        assert port.dialled == []


async def test_a_calls_rules_for_plain_http_join_the_sandboxs() -> None:
    ok = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    request = b"GET http://a.example.org/%s HTTP/1.1\r\nHost: x\r\n\r\n"
    sandbox = having(http=(HttpRule(paths=("/a/*",)),))
    async with proxy_port(sandbox, NAMES, {(PUBLIC, 80): ok}) as (port, _):
        with port.session.narrowed(having(http=(HttpRule(paths=("/*",), methods=("GET",)),)), None):
            assert b" 200 " in await port.ask(request % b"a/b")
            assert b" 403 " in await port.ask(request % b"b")


async def test_a_calls_limits_hold_while_it_runs() -> None:
    async with proxy_port(NETWORK, NAMES, SERVERS, bandwidth_kb_s=1000) as (port, _):
        with port.session.narrowed(having(max_connections=1, max_mb=1), 50):
            assert port.session._account.bucket.rate == 50 * 1024
            held = await port.tunnel("a.example.org", SSH)
            assert b" 429 " in await port.ask(REQUEST)
            held[1].close()
        assert port.session._account.bucket.rate == 1000 * 1024
        with port.session.narrowed(NETWORK, 5000):
            assert port.session._account.bucket.rate == 1000 * 1024


async def test_a_slow_reader_holds_its_server_back() -> None:
    sent = 0

    async def flood(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < 256 * len(MIB):
            writer.write(MIB)
            await writer.drain()
            sent += len(MIB)

    async with proxy_port(NETWORK, NAMES, {(PUBLIC, SSH): flood}) as (port, _):
        _, writer = await port.tunnel("a.example.org", SSH)
        before = -1
        while sent != before or sent == 0:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 64 * len(MIB)
        writer.transport.abort()
