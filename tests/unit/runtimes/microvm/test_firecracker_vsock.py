"""The handshake on the host's end of a vsock, against sockets that keep it, and that do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mas_sandbox.runtimes.microvm.firecracker.vsock import connect_vsock
from mas_sandbox.wire.errors import ErrorCode, SandboxError

pytestmark = pytest.mark.anyio

Conversation = Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Served = Callable[[Conversation], Awaitable[Path]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Served]:
    """Serves a socket; the conversation is told which connection it is, from 1, and what
    was asked has been read."""
    servers = []

    async def served(conversation: Conversation) -> Path:
        count = 0

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal count
            count += 1
            assert await reader.readuntil(b"\n") == b"CONNECT 5000\n"
            with suppress(ConnectionError):
                await conversation(count, reader, writer)

        path = tmp_path / "v.sock"
        servers.append(await asyncio.start_unix_server(connected, path))
        return path

    yield served
    for server in servers:
        server.close()


async def refusal(path: Path, timeout_s: float = 0.3) -> str:
    started = time.monotonic()
    with pytest.raises(SandboxError) as caught:
        await connect_vsock(path, 5000, timeout_s)
    assert time.monotonic() - started < timeout_s + 1
    assert caught.value.code is ErrorCode.SANDBOX_CRASH
    return caught.value.message


async def test_not_a_byte_of_the_guest_s_is_taken_with_the_line(serve: Served) -> None:
    async def say(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"OK 1073741824\nfirst\nbytes")

    end = await connect_vsock(await serve(say), 5000, 2)
    with end:
        assert end.getblocking() is False
        assert end.recv(100) == b"first\nbytes"


async def test_a_line_may_come_in_pieces(serve: Served) -> None:
    async def say(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in (b"O", b"K 107", b"3741824", b"\nx"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)

    with await connect_vsock(await serve(say), 5000, 2) as end:
        assert end.recv(100) == b"x"


async def test_a_guest_that_does_not_listen_yet_is_asked_again(serve: Served) -> None:
    async def say(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if number > 3:
            writer.write(b"OK 1\nx")
        else:
            writer.close()

    (await connect_vsock(await serve(say), 5000, 2)).close()


async def test_a_connection_that_is_reset_after_its_ok_is_made_again(serve: Served) -> None:
    async def say(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"OK 1\n" if number == 1 else b"OK 2\nx")
        if number == 1:
            writer.close()

    with await connect_vsock(await serve(say), 5000, 2) as end:
        assert end.recv(100) == b"x"


async def test_nobody_listening_is_told_at_the_deadline(serve: Served) -> None:
    async def say(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    assert "nobody listens on port 5000 in the guest" in await refusal(await serve(say))


@pytest.mark.parametrize("said", [b"", b"OK 1\n", b"OK 10"])
async def test_a_guest_that_goes_silent_is_given_up_at_the_deadline(
    serve: Served, said: bytes
) -> None:
    async def say(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await reader.read()

    assert "within 0.3 s: the guest did not answer" in await refusal(await serve(say))


@pytest.mark.parametrize("said", [b"NO 5000\n", b"OK \n", b"OK 1 2\n", b"ok 1\n", b"O" * 100_000])
async def test_another_answer_than_ok_is_refused_at_once(serve: Served, said: bytes) -> None:
    async def say(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await reader.read()

    assert "to CONNECT, not OK" in await refusal(await serve(say), 5)


async def test_a_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    told = await refusal(tmp_path / "none")
    assert f"{tmp_path}/none: No such file" in told


async def test_a_monitor_that_ended_is_not_waited_for(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(SandboxError, match="Firecracker ended"):
        await connect_vsock(tmp_path / "none", 5000, 30, lambda: True)
    assert time.monotonic() - started < 5
