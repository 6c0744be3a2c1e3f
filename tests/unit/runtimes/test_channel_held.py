"""The host's end of the channel while its sandbox is paused."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from doubles.hostile_guest import HostileGuest
from mas_sandbox.runtimes import channel as module
from mas_sandbox.runtimes.channel import Channel
from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import Kind
from mas_sandbox.wire.messages import Call, Result
from mas_sandbox.wire.process import Process

pytestmark = pytest.mark.anyio

Pair = tuple[Channel, HostileGuest]


@pytest.fixture
async def pair(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.02)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    _, channel = await asyncio.get_running_loop().create_unix_connection(Channel, sock=ours)
    guest = HostileGuest(theirs)
    await asyncio.gather(channel.welcome({"a.py": "x = 1"}, "test", 2.0), guest.greet())
    yield channel, guest
    channel.close()
    guest.close()


async def test_a_silent_guest_is_not_lost_while_held_and_is_afterwards(pair: Pair) -> None:
    channel, _ = pair
    channel.start(Process(["true"]))
    channel.hold()
    await asyncio.sleep(0.3)
    assert channel.lost is None
    channel.release()
    async with asyncio.timeout(5):
        while channel.lost is None:
            await asyncio.sleep(0.01)
    assert channel.lost.code is ErrorCode.GUEST_LOST


async def test_nothing_is_begun_while_held(pair: Pair) -> None:
    channel, guest = pair
    channel.hold()
    for begin in (
        lambda: channel.start(Process(["true"])),
        lambda: channel.stream(Call("bash", {})),
    ):
        with pytest.raises(SandboxError, match="resume it first"):
            begin()
    with pytest.raises(SandboxError, match="resume it first"):
        await channel.call(Call("bash", {}))
    channel.release()
    calling = asyncio.create_task(channel.call(Call("bash", {})))
    stream, _ = await guest.receive(Kind.CALL)
    with pytest.raises(SandboxError, match="1 calls run"):
        channel.hold()
    await guest.frame(Kind.RESULT, stream, Result(exit_code=0).encode())
    assert (await calling).exit_code == 0
    channel.hold()


async def test_greeting_again_says_everything_again_with_a_new_time_and_entropy(pair: Pair) -> None:
    channel, guest = pair
    said = []
    for _ in range(2):
        greeting = asyncio.create_task(channel.greet_again(2.0))
        said.append(strict_json.loads((await guest.receive(Kind.WELCOME))[1]))
        await guest.frame(Kind.READY, 0)
        await greeting
    assert said[0]["time_ns"] < said[1]["time_ns"]
    assert said[0]["entropy"] != said[1]["entropy"]
    assert [each["extensions"] for each in said] == [{"a.py": "x = 1"}] * 2


async def test_a_machine_that_does_not_go_on_is_lost(pair: Pair) -> None:
    channel, _ = pair
    with pytest.raises(SandboxError) as lost:
        await channel.greet_again(0.05)
    assert lost.value.code is ErrorCode.GUEST_LOST
    assert channel.lost is not None
    with pytest.raises(SandboxError):
        await channel.greet_again(0.05)
