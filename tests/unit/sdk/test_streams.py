"""Streams that end early, or badly: nothing is left behind, and the reason is typed."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice

import httpx2
import pytest

from mas_sandbox.sdk import (
    AsyncSandbox,
    BadReply,
    CallError,
    CallTimeout,
    Client,
    DaemonLost,
    GuestLost,
    NotFound,
    Overloaded,
    Processes,
    Sandbox,
    Unauthenticated,
    connection,
)
from running_daemon import TOKEN, RunningDaemon, daemon

START = b'{"type":"start","pid":7,"tag":""}\n'
EXIT = b'{"type":"exit","exit_code":0,"signal":null,"error":null}\n'
LOST = (
    b'{"type":"exit","exit_code":null,"signal":null,'
    b'"error":{"code":"guest_lost","message":"it died"}}\n'
)
FAILED = b'{"type":"error","error":{"code":"timeout","message":"too late"}}\n'


def sockets() -> int:
    """How many this process has open."""
    count = 0
    for each in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            count += os.readlink(f"/proc/self/fd/{each}").startswith("socket:")
    return count


def eventually(holds: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def leave_by_breaking(sb: Sandbox) -> None:
    for event in sb.processes.stream("yes"):
        assert event.type == "start"
        break


def leave_a_block(sb: Sandbox) -> None:
    with sb.processes.stream("yes") as events:
        list(islice(events, 3))


def leave_by_closing(sb: Sandbox) -> None:
    events = sb.processes.stream("yes")
    list(islice(events, 3))
    events.close()
    events.close()
    assert list(events) == []


def leave_unread(sb: Sandbox) -> None:
    sb.processes.stream("yes")


def leave_an_attachment(sb: Sandbox) -> None:
    with sb.processes.open("yes") as attached:
        list(islice(attached, 3))


@pytest.mark.parametrize(
    "leave",
    [leave_by_breaking, leave_a_block, leave_by_closing, leave_unread, leave_an_attachment],
)
def test_a_stream_that_is_left_ends_its_program_and_its_connection(
    running: RunningDaemon, leave: Callable[[Sandbox], None]
) -> None:
    before = sockets(), threading.active_count()
    with Sandbox.create(running.url, TOKEN) as sb:
        leave(sb)
        # As long as a connection were held, its program would go on.
        eventually(lambda: [each.state for each in sb.processes.list()] == ["exited"])
        assert sb.run("echo still").stdout == "still\n"
    eventually(lambda: (sockets(), threading.active_count()) == before)


def test_what_is_read_and_watched_leaves_nothing(running: RunningDaemon) -> None:
    before = sockets(), threading.active_count()
    with Sandbox.create(running.url, TOKEN) as sb:
        sb.files.write("large", bytes(5_000_000))
        for piece in sb.files.stream("large"):
            assert piece
            break
        with sb.files.watch():
            pass
        with sb.files.download_archive() as pieces:
            next(pieces)
        attached = sb.processes.start("yes").attach()
        time.sleep(0.2)  # until more has arrived than is taken before it is read
        began = time.monotonic()
        attached.close()
        assert time.monotonic() - began < 8  # what is on its way does not hold it up
        sb.run("cat", stdin="x" * 300_000)
    eventually(lambda: (sockets(), threading.active_count()) == before)


def test_the_async_ones_leave_nothing(running: RunningDaemon) -> None:
    async def main() -> None:
        async with await AsyncSandbox.create(running.url, TOKEN) as sb:
            await sb.files.write("large", bytes(5_000_000))
            async with sb.files.stream("large") as pieces:
                await anext(pieces)
            async with sb.processes.stream("yes") as events:
                await anext(events)
            async with await sb.processes.open("yes") as attached:
                await anext(attached)
            async for _ in sb.processes.stream("yes"):
                break
            gc.collect()
            async with asyncio.timeout(20):
                while any(each.state == "running" for each in await sb.processes.list()):
                    await asyncio.sleep(0.02)
            async with sb.files.watch():
                pass
            sb.files.watch()
            stream = sb.processes.stream("yes")
            await stream.aclose()
            assert [event async for event in stream] == []
        assert len(asyncio.all_tasks()) == 1

    before = sockets(), threading.active_count()
    asyncio.run(main())
    eventually(lambda: (sockets(), threading.active_count()) == before)


def processes(*lines: bytes) -> Processes:
    """Of a daemon that answers everything with these lines."""
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, content=b"".join(lines)))
    return Processes(Client(transport=transport).connection, "sb_1")


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ((START,), DaemonLost),
        ((START, EXIT.rstrip()), DaemonLost),
        ((START, FAILED), CallTimeout),
        ((START, LOST), GuestLost),
        ((START, b"<html>\n"), BadReply),
        ((START, b'{"type":"of a newer daemon"}\n'), BadReply),
    ],
)
def test_a_stream_that_is_not_whole_is_an_error(
    lines: tuple[bytes, ...], error: type[CallError]
) -> None:
    with pytest.raises(error):
        processes(*lines).run("true")
    if lines[-1] != LOST:  # which is a last event, though no way to finish
        with pytest.raises(error):
            list(processes(*lines).stream("true"))


def test_signs_of_life_and_fields_of_a_newer_daemon_are_passed_over() -> None:
    newer = EXIT.replace(b'"error":null', b'"error":null,"newer":1')
    assert processes(START, b'{"type":"keepalive"}\n', newer).run("true").exit_code == 0


@contextmanager
def silent_after(answer: bytes) -> Iterator[str]:
    """The address of a server that answers so to one request, and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            accepted, _ = server.accept()
            with accepted:
                accepted.recv(65536)
                accepted.sendall(answer)
                while accepted.recv(65536):  # until the client leaves
                    pass

        serving = threading.Thread(target=serve)
        serving.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        serving.join(10)
        assert not serving.is_alive()


def test_a_stream_without_a_sign_of_life_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SILENCE_S", 0.3)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    with (
        silent_after(head + b"%x\r\n%b\r\n" % (len(START), START)) as url,
        Client(url, timeout=20) as client,
        pytest.raises(DaemonLost, match="no answer"),
    ):
        began = time.monotonic()
        try:
            Processes(client.connection, "sb_1").run("true")
        finally:
            assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", BadReply),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 2\r\n\r\nhi", BadReply),
        (
            b"HTTP/1.1 302 Found\r\nlocation: ws://127.0.0.2:9/\r\ncontent-length: 0\r\n\r\n",
            BadReply,
        ),
        (b"SSH-2.0-OpenSSH\r\n", BadReply),
    ],
)
def test_what_speaks_no_websocket_is_an_error(answer: bytes, error: type[CallError]) -> None:
    with silent_after(answer) as url, Client(url) as client, pytest.raises(error):
        client.connection.socket("/")


def test_a_websocket_that_is_refused_has_the_reason(running: RunningDaemon) -> None:
    with Client(running.url, TOKEN) as client, pytest.raises(NotFound):
        client.connection.socket("/v1/sandboxes/sb_none/processes/ws")
    with Client(running.url, "wrong") as client, pytest.raises(Unauthenticated):
        client.connection.socket("/v1/sandboxes/sb_none/processes/ws")


def test_a_stream_is_asked_for_again_where_the_daemon_was_too_busy() -> None:
    answers = iter(
        [
            httpx2.Response(
                429,
                json={"error": {"code": "overloaded", "message": "busy"}},
                headers={"retry-after": "0"},
            ),
            httpx2.Response(200, content=START + EXIT),
        ]
    )
    transport = httpx2.MockTransport(lambda _: next(answers))
    busy = Processes(Client(transport=transport, retries=1).connection, "sb_1")
    assert busy.run("true").exit_code == 0
    refused = httpx2.MockTransport(
        lambda _: httpx2.Response(429, json={"error": {"code": "overloaded", "message": "busy"}})
    )
    with pytest.raises(Overloaded):
        Processes(Client(transport=refused).connection, "sb_1").run("true")


def test_a_daemon_that_is_killed_breaks_off_everything(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    before = sockets(), threading.active_count()
    with daemon(tmp_path_factory.mktemp("doomed")) as doomed:
        sb = Sandbox.create(doomed.url, TOKEN)
        attached = sb.processes.open("sleep 60")
        watched = sb.files.watch()
        with pytest.raises(DaemonLost):
            sb.run("echo up; sleep 60", on_stdout=lambda _: doomed.process.kill())
        with pytest.raises(DaemonLost):
            list(attached)
        with pytest.raises(DaemonLost):
            list(watched)
        with pytest.raises(CallError):
            sb.files.read("x")
        attached.close()
        with pytest.raises(CallError), sb:
            pass
    eventually(lambda: (sockets(), threading.active_count()) == before)


def test_a_program_that_only_runs_commands_imports_no_websockets(running: RunningDaemon) -> None:
    program = (
        "import sys; from mas_sandbox.sdk import Sandbox\n"
        f"with Sandbox.create({running.url!r}, {TOKEN!r}) as sb: sb.run('true').check()\n"
        "heavy = {'websockets', 'fastapi', 'starlette', 'uvicorn', 'yaml', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
