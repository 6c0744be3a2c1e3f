"""The client of QEMU's machine protocol, against a peer that says what the test says."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mas_sandbox.runtimes.microvm.qemu.qmp import MAX_LINE, Qmp
from mas_sandbox.wire.errors import ErrorCode, SandboxError

pytestmark = pytest.mark.anyio

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}}}}


class Peer:
    """The monitor's end of the connection."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.end = end

    async def say(self, *messages: object) -> None:
        lines = b"".join(json.dumps(message).encode() + b"\r\n" for message in messages)
        await asyncio.get_running_loop().sock_sendall(self.end, lines)

    async def heard(self, count: int) -> list[dict[str, Any]]:
        data = b""
        while data.count(b"\n") < count:
            data += await asyncio.get_running_loop().sock_recv(self.end, 4096)
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
def ends() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


@pytest.fixture
async def peer(ends: tuple[socket.socket, socket.socket]) -> AsyncIterator[Peer]:
    with ends[1]:
        yield Peer(ends[1])


@pytest.fixture
async def qmp(ends: tuple[socket.socket, socket.socket], peer: Peer) -> AsyncIterator[Qmp]:
    client = await Qmp.over(ends[0])
    assert await peer.heard(1) == [{"execute": "qmp_capabilities", "arguments": {}}]
    await peer.say(GREETING, {"return": {}})
    yield client
    client.close()


async def failure(work: asyncio.Future[Any]) -> str:
    with pytest.raises(SandboxError) as caught:
        async with asyncio.timeout(5):
            await work
    assert caught.value.code is ErrorCode.SANDBOX_CRASH
    return caught.value.message


async def test_the_greeting_says_the_version(qmp: Qmp) -> None:
    assert await qmp.greeting == "7.2.22"


async def test_answers_are_matched_to_commands_in_their_order(qmp: Qmp, peer: Peer) -> None:
    first, second, third = qmp.send("stop"), qmp.send("migrate", {"uri": "x"}), qmp.send("cont")
    heard = await peer.heard(3)
    assert [each["execute"] for each in heard] == ["stop", "migrate", "cont"]
    assert heard[1]["arguments"] == {"uri": "x"}
    await peer.say(
        {"return": 1}, {"event": "STOP"}, {"error": {"class": "G", "desc": "no"}}, {"return": 3}
    )
    assert await first == 1
    assert "no" in await failure(second)
    assert await third == 3


async def test_an_event_that_is_waited_for_is_told(qmp: Qmp, peer: Peer) -> None:
    over = qmp.event("MIGRATION", lambda data: data["status"] == "completed")
    await peer.say(
        {"event": "STOP", "data": {"status": "completed"}},
        {"event": "MIGRATION", "data": {"status": "active"}},
        {"event": "MIGRATION", "data": {"status": "completed"}},
    )
    assert await over == {"status": "completed"}


async def test_an_open_file_goes_with_its_command(qmp: Qmp, peer: Peer) -> None:
    reader, writer = os.pipe()
    qmp.send("getfd", {"fdname": "state"}, writer)
    os.close(writer)
    peer.end.setblocking(True)
    line, files, _, _ = socket.recv_fds(peer.end, 4096, 4)
    assert json.loads(line)["execute"] == "getfd"
    os.write(files[0], b"through")
    assert os.read(reader, 16) == b"through"
    for descriptor in (reader, *files):
        os.close(descriptor)


@pytest.mark.parametrize(
    "said",
    [
        b"not json\n",
        b"[1, 2]\n",
        b"{}\n",
        b'{"return": {}}\n',
        b'{"error": {"desc": "nobody asked"}}\n',
        b'{"event": "STOP", "data": 3}\n',
        b'{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}}}}\n',
        b'{"QMP": {"version": {"qemu": {"major": "x"}}}}\n',
        b"[" * 5000 + b"\n",
        b"x" * (MAX_LINE + 1),
    ],
)
async def test_what_is_not_the_protocol_ends_the_connection(
    qmp: Qmp, peer: Peer, said: bytes
) -> None:
    await qmp.greeting
    waiting = qmp.event("MIGRATION")
    loop = asyncio.get_running_loop()
    sending = asyncio.create_task(loop.sock_sendall(peer.end, said))
    assert "the monitor sent" in await failure(waiting)
    assert qmp.lost is not None
    sending.cancel()


async def test_the_end_of_the_monitor_fails_whatever_waits(qmp: Qmp, peer: Peer) -> None:
    await qmp.greeting
    command, event = qmp.send("stop"), qmp.event("STOP")
    peer.end.close()
    for waiting in (command, event, qmp.send("cont"), qmp.event("RESUME")):
        assert "gone" in await failure(waiting)


async def test_an_answer_that_nobody_waits_for_any_more_is_passed_over(
    qmp: Qmp, peer: Peer
) -> None:
    qmp.send("stop").cancel()
    second = qmp.send("cont")
    await peer.say({"return": 1}, {"return": 2})
    assert await second == 2
