"""`sandbox.code` and `sandbox.ports`, of both kinds, against a real daemon."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import Any

import pytest

from mas_sandbox.sdk import (
    AsyncSandbox,
    CallError,
    CodeEnded,
    CodeFailed,
    CodeOutput,
    CodeStarted,
    InvalidRequest,
    NotFound,
    Sandbox,
)
from mas_sandbox.wire.errors import ErrorCode
from running_daemon import TOKEN, RunningDaemon

SERVER = """
import socket
server = socket.create_server(("127.0.0.1", 8000))
print("up", flush=True)
while True:
    client, _ = server.accept()
    with client:
        while data := client.recv(65536):
            client.sendall(data.upper())
        client.sendall(b"end")
"""


@pytest.fixture(scope="module")
def serving(sb: Sandbox) -> Sandbox:
    """With a server that answers in capitals, and "end" to the end."""
    server = sb.processes.start(["python3", "-c", SERVER])
    with server.events() as events:
        next(events), next(events)
    return sb


def test_code_keeps_its_variables_and_tells_what_happens(sb: Sandbox) -> None:
    told: list[Any] = []
    ran = sb.code.run("x = 20; print('set')", on_event=told.append)
    assert (ran.status, ran.stdout, ran.result, ran.text) == ("ok", "set\n", None, None)
    assert [type(event) for event in told] == [CodeStarted, CodeOutput, CodeEnded]
    assert sb.code.run("x + 1").check().text == "21"
    failed = sb.code.run("1/0")
    with pytest.raises(CodeFailed, match="ZeroDivisionError: division") as raised:
        failed.check()
    assert raised.value.execution is failed
    with pytest.raises(InvalidRequest):
        sb.code.run("1", timeout=0)
    with pytest.raises(NotFound):
        sb.code.run("1", context="ctx_none")


def test_code_that_takes_too_long_is_interrupted(sb: Sandbox) -> None:
    ran = sb.code.run("import time; time.sleep(60)", timeout=0.2)
    assert ran.status == "interrupted"
    assert ran.error is not None
    assert ran.error.code is ErrorCode.TIMEOUT
    with pytest.raises(CodeFailed, match="interrupted after 200 ms"):
        ran.check()


def test_a_context_is_interrupted_restarted_lost_and_closed(sb: Sandbox) -> None:
    with sb.code.context(env={"A": "1"}) as context:
        assert context.run("import os; os.environ['A']").text == "'1'"
        assert context.id in {each.id for each in sb.code.contexts()}
        with context.stream("import time; time.sleep(60)") as events:
            next(events)
            context.interrupt()
            assert list(events)[-1].type == "end"
        assert context.run("os.getpid() > 0").text == "True"
        assert context.restart().restarts == 1
        assert sb.code.run("os", context=context).status == "exception"
        assert context.run("import os; os._exit(3)").status == "lost"
        assert context.refresh().state == "dead"
    context.close()
    with pytest.raises(NotFound):
        context.refresh()


def test_leaving_a_run_interrupts_it(sb: Sandbox) -> None:
    with sb.code.context() as context:
        for event in context.stream("import time; time.sleep(60)"):
            assert event.type == "start"
            break
        assert context.run("'next'", timeout=20).text == "'next'"


def test_a_port_is_listed_shared_and_connected_to(serving: Sandbox) -> None:
    assert 8000 in {each.port for each in serving.ports.list()}
    assert serving.ports.share(8000, expires_s=60).port == 8000
    with serving.ports.connect(8000) as tunnel:
        tunnel.write(b"x" * 300_000)
        got = b""
        while len(got) < 300_000:
            got += tunnel.read()
        assert got == b"X" * 300_000
        tunnel.write_eof()
        assert (tunnel.read(), tunnel.read(), tunnel.read()) == (b"end", b"", b"")
    with pytest.raises(NotFound, match="9999"):
        serving.ports.connect(9999)
    with pytest.raises(CallError):
        tunnel.write(b"closed")


def test_the_url_of_a_port_needs_no_token_but_its_own(sb: Sandbox) -> None:
    server = sb.processes.start(["python3", "-u", "-m", "http.server", "8001"])
    with server.events() as events:
        next(events), next(events)
    sb.files.write("page", "hello")
    url = sb.ports.url(8001, expires_s=60)
    with urllib.request.urlopen(url.replace("/?", "/page?"), timeout=20) as answer:
        assert answer.read() == b"hello"


def test_the_async_ones_do_the_same(running: RunningDaemon, serving: Sandbox) -> None:
    async def main() -> None:
        async with await AsyncSandbox.connect(serving.id, running.url, TOKEN) as sb:
            told: list[Any] = []
            ran = await sb.code.run("y = 1; print('a')\ny + 1", on_event=told.append)
            assert (ran.stdout, ran.text, told[-1].type) == ("a\n", "2", "end")
            async with await sb.code.context() as context:
                async with context.stream("import time; time.sleep(60)") as events:
                    await anext(events)
                    await context.interrupt()
                    assert [event.type async for event in events][-1] == "end"
                assert (await context.restart()).restarts == 1
                assert (await context.run("y")).status == "exception"
                assert (await context.refresh()).executions == 2
                assert context.id in {each.id for each in await sb.code.contexts()}
            with pytest.raises(NotFound):
                await context.refresh()
            assert 8000 in {each.port for each in await sb.ports.list()}
            assert "/ports/8000/" in await sb.ports.url(8000)
            async with await sb.ports.connect(8000) as tunnel:
                await tunnel.write(b"hello")
                assert await tunnel.read() == b"HELLO"
                await tunnel.write_eof()
                assert [await tunnel.read() for _ in range(3)] == [b"end", b"", b""]
            with pytest.raises(NotFound):
                await sb.ports.connect(9999)

    asyncio.run(main())
