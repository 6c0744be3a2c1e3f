"""The host's end of the channel against a guest that breaks every rule (AP-09, AP-10)."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator

import pytest

from doubles.hostile_guest import HostileGuest
from mas_sandbox.runtimes import channel as channel_module
from mas_sandbox.runtimes.channel import Channel
from mas_sandbox.wire.credit import INITIAL
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import CHUNK, Kind, encode
from mas_sandbox.wire.messages import Call, Result

pytestmark = pytest.mark.anyio

Pair = tuple[Channel, HostileGuest]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """A greeted channel and its guest."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    _, channel = await asyncio.get_running_loop().create_unix_connection(Channel, sock=ours)
    guest = HostileGuest(theirs)
    await asyncio.gather(channel.welcome({}, "test", 2.0), guest.greet())
    yield channel, guest
    channel.close()
    guest.close()


async def started(pair: Pair, **limits: int) -> tuple[asyncio.Task[object], int]:
    """A call under way: its task and its stream."""
    channel, guest = pair
    task: asyncio.Task[object] = asyncio.create_task(channel.call(Call("bash", {}, **limits)))
    stream, _ = await guest.receive(Kind.CALL)
    return task, stream


async def refused(task: asyncio.Task[object]) -> SandboxError:
    with pytest.raises(SandboxError) as error:
        async with asyncio.timeout(5):
            await task
    return error.value


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack("!IBI", 0xFFFFFFFF, Kind.STDOUT, 1),
        struct.pack("!IBI", 0, 0xEE, 1),
        encode(Kind.CALL, 1, b"{}"),
        encode(Kind.STDOUT, 0, b"x"),
        encode(Kind.STDOUT, 77, b"on a stream that is not open"),
        encode(Kind.RESULT, 1, b"not json"),
        encode(Kind.RESULT, 1, b'{"exit_code":0}'),
        encode(Kind.RESULT, 1, Result(exit_code=0).encode().replace(b"0", b"-5", 1)),
        encode(Kind.RESULT, 1, Result(exit_code=1, code="policy_denied", message="x").encode()),
        encode(Kind.CREDIT, 1, struct.pack("!I", 1)),
        encode(Kind.HELLO, 0, b"{}"),
    ],
    ids=lambda garbage: garbage[:12].hex(),
)
async def test_a_broken_rule_ends_every_call_with_a_protocol_error(
    pair: Pair, garbage: bytes
) -> None:
    task, stream = await started(pair)
    other, _ = await started(pair)
    assert stream == 1
    await pair[1].send(garbage)
    assert (await refused(task)).code is ErrorCode.GUEST_PROTOCOL_ERROR
    assert (await refused(other)).code is ErrorCode.GUEST_PROTOCOL_ERROR
    assert await pair[1].closed()


async def test_output_beyond_the_limit_is_a_protocol_error(pair: Pair) -> None:
    task, stream = await started(pair, output_bytes=10)
    await pair[1].frame(Kind.STDOUT, stream, b"x" * 11)
    assert (await refused(task)).code is ErrorCode.GUEST_PROTOCOL_ERROR


async def test_data_beyond_the_credit_is_a_protocol_error(pair: Pair) -> None:
    """The host gives credit back as it reads, so only one oversized burst can overrun it."""
    task, stream = await started(pair, output_bytes=1 << 30)
    burst = encode(Kind.STDOUT, stream, b"x" * (INITIAL + 1))
    await pair[1].send(burst)
    assert (await refused(task)).code is ErrorCode.GUEST_PROTOCOL_ERROR


async def test_credit_is_given_back_as_output_is_read(pair: Pair) -> None:
    task, stream = await started(pair, output_bytes=1 << 30)
    sent = credit = 0
    credit = INITIAL
    while sent < 4 * INITIAL:
        if credit < CHUNK:
            _, grant = await pair[1].receive(Kind.CREDIT)
            credit += struct.unpack("!I", grant)[0]
            continue
        await pair[1].frame(Kind.STDOUT, stream, b"y" * CHUNK)
        sent += CHUNK
        credit -= CHUNK
    await pair[1].frame(Kind.RESULT, stream, Result(exit_code=0).encode())
    outcome = await task
    assert len(outcome.stdout) == sent  # type: ignore[attr-defined]


async def test_a_guest_that_hangs_up_is_lost(pair: Pair) -> None:
    task, _ = await started(pair)
    pair[1].close()
    assert (await refused(task)).code is ErrorCode.GUEST_LOST


async def test_a_guest_that_never_answers_is_timed_out_by_the_host(pair: Pair) -> None:
    task, _ = await started(pair, timeout_ms=100)
    assert (await refused(task)).code is ErrorCode.TIMEOUT
    assert await pair[1].closed()


async def test_a_guest_that_stops_answering_pings_is_lost(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "HEARTBEAT_S", 0.05)
    task, _ = await started(pair)
    assert (await refused(task)).code is ErrorCode.GUEST_LOST


async def test_a_cancelled_call_is_cancelled_in_the_guest_and_its_output_swallowed(
    pair: Pair,
) -> None:
    channel, guest = pair
    task, stream = await started(pair)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    cancelled, _ = await guest.receive(Kind.CANCEL)
    assert cancelled == stream
    await guest.frame(Kind.STDOUT, stream, b"late")
    await guest.frame(Kind.RESULT, stream, Result(1, "interrupted", "cancelled").encode())
    task, stream = await started(pair)
    await guest.frame(Kind.RESULT, stream, Result(exit_code=0).encode())
    outcome = await task
    assert outcome.stdout == b""  # type: ignore[attr-defined]
    assert channel.lost is None


async def test_a_guest_that_ignores_a_cancel_is_lost(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "GRACE_S", 0.05)
    task, _ = await started(pair)
    task.cancel()
    assert await pair[1].closed()
    assert pair[0].lost is not None
    assert pair[0].lost.code is ErrorCode.GUEST_LOST


async def test_numbers_from_the_guest_are_bounded_by_the_host(pair: Pair) -> None:
    task, stream = await started(pair)
    lie = Result(exit_code=0, cpu_us=10**15, max_rss_kb=10**15)
    await pair[1].frame(Kind.RESULT, stream, lie.encode())
    outcome = await task
    assert outcome.cpu_ms < 60_000  # type: ignore[attr-defined]
    assert outcome.mem_mb < 10**8  # type: ignore[attr-defined]


async def test_a_value_that_is_not_json_fails_the_call_and_nothing_else(pair: Pair) -> None:
    task, stream = await started(pair)
    await pair[1].frame(Kind.VALUE, stream, b'{"a": NaN}')
    await pair[1].frame(Kind.RESULT, stream, Result(exit_code=0).encode())
    outcome = await task
    assert outcome.code is ErrorCode.TOOL_FAILED  # type: ignore[attr-defined]
    assert pair[0].lost is None


async def test_a_guest_that_says_nothing_at_the_start_is_a_crash() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        _, channel = await asyncio.get_running_loop().create_unix_connection(Channel, sock=ours)
        with pytest.raises(SandboxError) as silent:
            await channel.welcome({}, "test", 0.1)
    assert silent.value.code is ErrorCode.SANDBOX_CRASH


async def test_a_guest_that_speaks_another_protocol_is_refused() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    _, channel = await asyncio.get_running_loop().create_unix_connection(Channel, sock=ours)
    guest = HostileGuest(theirs)
    hello = {"protocol": 9, "pid": 1, "python": "3", "tools": [], "controls": []}
    await guest.frame(Kind.HELLO, 0, json.dumps(hello).encode())
    with pytest.raises(SandboxError) as refusal:
        await channel.welcome({}, "test", 2.0)
    assert refusal.value.code is ErrorCode.GUEST_PROTOCOL_ERROR
    guest.close()
