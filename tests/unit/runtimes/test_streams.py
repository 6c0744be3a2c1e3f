"""Streams that the guest opens: services, credit, ends, and a guest that breaks the rules."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from doubles.hostile_guest import HostileGuest
from mas_sandbox.runtimes import streams as streams_module
from mas_sandbox.runtimes.channel import Channel
from mas_sandbox.runtimes.streams import MAX_STREAMS, GuestStream
from mas_sandbox.wire.credit import INITIAL
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.frames import CHUNK, GUEST_STREAM, Kind

pytestmark = pytest.mark.anyio

FIRST = GUEST_STREAM | 1
Pair = tuple[Channel, HostileGuest]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    _, channel = await asyncio.get_running_loop().create_unix_connection(Channel, sock=ours)
    guest = HostileGuest(theirs)
    await asyncio.gather(channel.welcome({}, "test", 2.0), guest.greet())
    yield channel, guest
    await channel.aclose()
    guest.close()


async def echo(stream: GuestStream) -> None:
    while data := await stream.read():
        await stream.write(data.upper())


async def received(guest: HostileGuest, size: int) -> bytes:
    """Bytes for the guest; credit is given back for each frame."""
    got = b""
    while len(got) < size:
        number, payload = await guest.receive(Kind.DATA)
        got += payload
        if payload:
            await guest.frame(Kind.CREDIT, number, len(payload).to_bytes(4, "big"))
    return got


async def test_a_service_reads_and_answers_and_both_directions_end(pair: Pair) -> None:
    channel, guest = pair
    channel.serve("echo", echo)
    await guest.frame(Kind.OPEN, FIRST, b"echo")
    await guest.frame(Kind.DATA, FIRST, b"hello")
    assert await guest.receive(Kind.DATA) == (FIRST, b"HELLO")
    await guest.frame(Kind.DATA, FIRST)
    assert await guest.receive(Kind.DATA) == (FIRST, b"")
    await guest.frame(Kind.OPEN, FIRST, b"echo")  # its number is free again
    await guest.frame(Kind.DATA, FIRST, b"again")
    assert await guest.receive(Kind.DATA) == (FIRST, b"AGAIN")


async def test_an_unknown_service_is_reset(pair: Pair) -> None:
    _, guest = pair
    await guest.frame(Kind.OPEN, FIRST, b"nothing")
    assert await guest.receive(Kind.RESET) == (FIRST, b"")


async def test_more_than_a_window_flows_only_as_it_is_taken(pair: Pair) -> None:
    channel, guest = pair
    size = 4 * INITIAL

    async def flood(stream: GuestStream) -> None:
        await stream.write(bytes(size))

    channel.serve("flood", flood)
    await guest.frame(Kind.OPEN, FIRST, b"flood")
    for _ in range(INITIAL // CHUNK):
        assert (await guest.receive(Kind.DATA))[1] == bytes(CHUNK)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await guest.receive(Kind.DATA)
    await guest.frame(Kind.CREDIT, FIRST, INITIAL.to_bytes(4, "big"))
    assert len(await received(guest, size - INITIAL)) == size - INITIAL


async def test_what_the_guest_sends_is_credited_when_it_is_read(pair: Pair) -> None:
    channel, guest = pair
    gate = asyncio.Event()

    async def swallow(stream: GuestStream) -> None:
        await gate.wait()
        while await stream.read():
            continue

    channel.serve("swallow", swallow)
    await guest.frame(Kind.OPEN, FIRST, b"swallow")
    for _ in range(INITIAL // CHUNK):
        await guest.frame(Kind.DATA, FIRST, bytes(CHUNK))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await guest.receive(Kind.CREDIT)
    gate.set()
    _, grant = await guest.receive(Kind.CREDIT)
    assert int.from_bytes(grant, "big") >= INITIAL // 4


@pytest.mark.parametrize("fault", ["raises", "reset", "lost"])
async def test_the_end_of_one_side_is_seen_by_the_other(pair: Pair, fault: str) -> None:
    channel, guest = pair
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def serve(stream: GuestStream) -> None:
        if fault == "raises":
            raise RuntimeError("a fault")
        try:
            await stream.read()
        except (ConnectionResetError, asyncio.CancelledError) as error:
            ended.set_result(type(error).__name__)
            raise

    channel.serve("service", serve)
    await guest.frame(Kind.OPEN, FIRST, b"service")
    match fault:
        case "raises":
            assert await guest.receive(Kind.RESET) == (FIRST, b"")
        case "reset":
            await guest.frame(Kind.RESET, FIRST)
            assert await ended == "ConnectionResetError"
            assert await guest.receive(Kind.RESET) == (FIRST, b"")
        case _:
            await asyncio.sleep(0.05)
            await channel.aclose()
            assert ended.done()


async def test_a_reset_stream_is_not_mistaken_for_one_that_never_was(pair: Pair) -> None:
    channel, guest = pair
    await guest.frame(Kind.OPEN, FIRST, b"nothing")
    await guest.receive(Kind.RESET)
    await guest.frame(Kind.DATA, FIRST, b"on its way")
    await guest.frame(Kind.CREDIT, FIRST, (0).to_bytes(4, "big"))
    await guest.frame(Kind.RESET, FIRST)
    await guest.frame(Kind.RESET, FIRST)  # crossed ours
    await guest.frame(Kind.CREDIT, FIRST, (0).to_bytes(4, "big"))
    await asyncio.sleep(0.05)
    assert channel.lost is None
    await guest.frame(Kind.DATA, FIRST, b"never opened")
    assert await guest.closed()


@pytest.mark.parametrize(
    "frames",
    [
        [(Kind.OPEN, 1, b"echo")],
        [(Kind.OPEN, FIRST, b"echo"), (Kind.OPEN, FIRST, b"echo")],
        [(Kind.OPEN, FIRST, b"e" * 65)],
        [(Kind.OPEN, FIRST, "écho".encode())],
        [(Kind.DATA, FIRST, b"x")],
        [(Kind.OPEN, FIRST, b"echo"), (Kind.DATA, FIRST, b""), (Kind.DATA, FIRST, b"x")],
        [(Kind.OPEN, FIRST, b"echo"), (Kind.CREDIT, FIRST, b"\0\0\0\1")],
        [(Kind.OPEN, FIRST, b"wait"), *[(Kind.DATA, FIRST, bytes(CHUNK))] * 5],
    ],
    ids=str,
)
async def test_a_broken_rule_ends_the_sandbox(
    pair: Pair, frames: list[tuple[Kind, int, bytes]]
) -> None:
    channel, guest = pair

    async def wait(stream: GuestStream) -> None:
        await asyncio.sleep(60)

    channel.serve("echo", echo)
    channel.serve("wait", wait)
    for frame in frames:
        await guest.frame(*frame)
    assert await guest.closed()
    assert channel.lost is not None
    assert channel.lost.code is ErrorCode.GUEST_PROTOCOL_ERROR


async def test_only_so_many_are_open_at_once(pair: Pair) -> None:
    channel, guest = pair

    async def wait(stream: GuestStream) -> None:
        await stream.read()

    channel.serve("wait", wait)
    for number in range(MAX_STREAMS + 1):
        await guest.frame(Kind.OPEN, FIRST + number, b"wait")
    assert await guest.receive(Kind.RESET) == (FIRST + MAX_STREAMS, b"")


async def test_a_guest_that_never_ends_its_side_is_cut_off(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "LINGER_S", 0.05)
    channel, guest = pair

    async def leave(stream: GuestStream) -> None:
        await stream.write(b"bye")

    channel.serve("leave", leave)
    await guest.frame(Kind.OPEN, FIRST, b"leave")
    assert await guest.receive(Kind.DATA) == (FIRST, b"bye")
    assert await guest.receive(Kind.DATA) == (FIRST, b"")
    assert await guest.receive(Kind.RESET) == (FIRST, b"")
