"""Output taken as it comes, and input as it is read: what neither side can make grow."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest

from doubles.hostile_guest import HostileGuest
from mas_sandbox.runtimes.channel import Channel
from mas_sandbox.runtimes.live import LiveStream
from mas_sandbox.wire.credit import INITIAL
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import CHUNK, Kind
from mas_sandbox.wire.messages import Call, Result
from mas_sandbox.wire.process import SIZE, STARTED, Process

pytestmark = pytest.mark.anyio

Pair = tuple[Channel, HostileGuest]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    _, channel = await asyncio.get_running_loop().create_unix_connection(Channel, sock=ours)
    guest = HostileGuest(theirs)
    await asyncio.gather(channel.welcome({}, "test", 2.0), guest.greet())
    yield channel, guest
    channel.close()
    guest.close()


async def started(pair: Pair) -> tuple[LiveStream, int]:
    channel, guest = pair
    stream = channel.start(Process(["bash"], pty=(24, 80)))
    number, payload = await guest.receive(Kind.START)
    assert json.loads(payload)["pty"] == [24, 80]
    await guest.frame(Kind.STARTED, number, STARTED.pack(42))
    return stream, number


async def test_a_process_says_its_id_then_its_output_then_how_it_ended(pair: Pair) -> None:
    _, guest = pair
    stream, number = await started(pair)
    assert await stream.started == 42
    await guest.frame(Kind.STDOUT, number, b"out")
    await guest.frame(Kind.STDERR, number, b"err")
    await guest.frame(Kind.RESULT, number, Result(3).encode())
    assert await stream.read() == (Kind.STDOUT, b"out")
    assert await stream.read() == (Kind.STDERR, b"err")
    assert await stream.read() is None
    assert (await stream.result).exit_code == 3


async def test_a_slow_reader_holds_the_guest_up(pair: Pair) -> None:
    channel, guest = pair
    stream, number = await started(pair)
    for _ in range(INITIAL // CHUNK):
        await guest.frame(Kind.STDOUT, number, bytes(CHUNK))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await guest.receive(Kind.CREDIT)
    assert await stream.read() == (Kind.STDOUT, bytes(CHUNK))
    assert await guest.receive(Kind.CREDIT) == (number, (INITIAL // 4).to_bytes(4, "big"))
    await guest.frame(Kind.STDOUT, number, bytes(CHUNK))
    await guest.frame(Kind.STDOUT, number, b"one too many")
    assert await guest.closed()
    assert channel.lost is not None
    assert channel.lost.code is ErrorCode.GUEST_PROTOCOL_ERROR


async def test_writing_waits_for_the_process_to_read(pair: Pair) -> None:
    _, guest = pair
    stream, number = await started(pair)
    writing = asyncio.create_task(stream.write(bytes(INITIAL + 1)))
    for _ in range(INITIAL // CHUNK):
        assert (await guest.receive(Kind.STDIN))[1] == bytes(CHUNK)
    await asyncio.sleep(0.05)
    assert not writing.done()
    await guest.frame(Kind.CREDIT, number, INITIAL.to_bytes(4, "big"))
    assert await guest.receive(Kind.STDIN) == (number, b"\0")
    await writing
    stream.write_eof()
    assert await guest.receive(Kind.STDIN) == (number, b"")
    with pytest.raises(SandboxError, match="closed"):
        await stream.write(b"more")


async def test_signals_sizes_and_cancels_reach_the_guest_until_it_has_ended(pair: Pair) -> None:
    _, guest = pair
    stream, number = await started(pair)
    stream.signal(2)
    stream.resize(50, 132)
    stream.cancel()
    assert await guest.receive(Kind.SIGNAL) == (number, b"\2")
    assert await guest.receive(Kind.RESIZE) == (number, SIZE.pack(50, 132))
    assert await guest.receive(Kind.CANCEL) == (number, b"")
    await guest.frame(Kind.RESULT, number, Result(143).encode())
    assert await stream.read() is None
    await guest.frame(Kind.CREDIT, number, (1).to_bytes(4, "big"))  # it crossed the end
    stream.signal(9)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await guest.receive(Kind.SIGNAL)


async def test_a_sandbox_that_dies_fails_whoever_reads_writes_or_waits(pair: Pair) -> None:
    channel, guest = pair
    stream, _ = await started(pair)
    writing = asyncio.create_task(stream.write(bytes(2 * INITIAL)))
    reading = asyncio.create_task(stream.read())
    await asyncio.sleep(0.05)
    guest.close()
    for task in (reading, writing, asyncio.ensure_future(stream.result)):
        with pytest.raises(SandboxError) as caught:
            await task
        assert caught.value.code is ErrorCode.GUEST_LOST
    with pytest.raises(SandboxError):
        channel.start(Process(["true"]))


@pytest.mark.parametrize("twice", [True, False])
async def test_a_started_that_makes_no_sense_ends_the_sandbox(pair: Pair, twice: bool) -> None:
    channel, guest = pair
    _, number = await started(pair)
    await guest.frame(Kind.STARTED, number, STARTED.pack(42) if twice else b"\1")
    assert await guest.closed()
    assert channel.lost is not None


async def test_a_call_can_be_streamed_as_well(pair: Pair) -> None:
    channel, guest = pair
    stream = channel.stream(Call("bash", {"command": "yes"}))
    number, _ = await guest.receive(Kind.CALL)
    await guest.frame(Kind.STDOUT, number, b"y\n")
    assert await stream.read() == (Kind.STDOUT, b"y\n")
    with pytest.raises(SandboxError, match="at most"):
        channel.stream(Call("bash", {"command": "x" * (1 << 20)}))
