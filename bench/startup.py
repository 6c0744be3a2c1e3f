"""How long a daemon takes to come up."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial

from mas_sandbox.sdk import LocalExecutor

from .cases import CALCULATOR
from .places import stdio_command
from .rows import Absent, Benchmark, Row, Samples
from .turns import Take, blocking, in_turns


def interpreter() -> None:
    """This Python, and the modules that every such program has."""
    subprocess.run([sys.executable, "-c", "import asyncio"], check=True)


def one_call(executor: LocalExecutor) -> None:
    """A daemon is started, answers one call, and, where the executor keeps none, ends."""
    reply = executor.execute(CALCULATOR.tool, CALCULATOR.args)
    if reply.result != int(CALCULATOR.said):
        raise RuntimeError(f"it answered {reply}")


async def _first_answer(command: list[str], runtime: str) -> float:
    """Milliseconds until the first call is answered; the end of the daemon is not in it."""
    with LocalExecutor(command, runtime=runtime, keep_alive=True) as executor:
        begun = time.perf_counter()
        one_call(executor)
        return (time.perf_counter() - begun) * 1000


_HEALTH = b"GET /v1/sandbox/health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
_TOOLS = b"GET /v1/tools HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


def _call() -> bytes:
    body = json.dumps({"tool": {"name": CALCULATOR.tool, "args": CALCULATOR.args}}).encode()
    head = (
        "POST /v1/sandbox/execute HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _answering(command: list[str], request: bytes) -> float:
    """Milliseconds until a request is answered with 200."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    begun = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(*command, "-listen", f"127.0.0.1:{port}", "-runtime", "local"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(60):
            while not await _answers(port, request):  # noqa: ASYNC110  # nothing tells when it listens
                await asyncio.sleep(0.002)
        return (time.perf_counter() - begun) * 1000
    finally:
        process.terminate()
        await process.wait()


async def _answers(port: int, request: bytes) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.write(request)
    line = await reader.readline()
    writer.close()
    return b" 200 " in line


async def _measure(runs: int) -> Samples:
    with ExitStack() as undo:
        takes: dict[str, Take | Absent] = {"python-start": blocking(interpreter)}
        for name in ("local", "jail"):
            command = undo.enter_context(stdio_command(0))
            takes[f"stdio-start-{name}"] = partial(_first_answer, command, name)
            executor = LocalExecutor(command, runtime=name)
            takes[f"stdio-once-{name}"] = blocking(partial(one_call, executor))
        command = undo.enter_context(stdio_command(0, "bubblewrap"))
        takes["stdio-start-jail-bubblewrap"] = partial(_first_answer, command, "jail")
        for name, request in (
            ("http-start", _HEALTH),
            ("http-start-call", _call()),
            ("http-start-route", _TOOLS),
        ):
            command = undo.enter_context(stdio_command(0))
            takes[name] = partial(_answering, command, request)
        return await in_turns(takes, runs)


STARTUP = Benchmark(
    (
        Row("python-start", "ms", "this Python, started to import asyncio"),
        Row(
            *(
                "stdio-start-local",
                "ms",
                "`LocalExecutor`: a daemon is started and answers `calculator`",
            ),
            goal=150,
            beside=("python-start",),
        ),
        Row(
            *("stdio-start-jail", "ms", "the same, in a jail"),
            beside=("python-start",),
        ),
        Row(
            *("stdio-start-jail-bubblewrap", "ms", "the same, in one that bubblewrap starts"),
            beside=("python-start",),
        ),
        Row(
            *("stdio-once-local", "ms", "a daemon for one call, until it is gone"),
            beside=("python-start",),
        ),
        Row(
            *("stdio-once-jail", "ms", "the same, in a jail"),
            beside=("python-start",),
        ),
        Row(
            *("http-start", "ms", "a daemon until its health is answered"),
            beside=("python-start",),
        ),
        Row(
            *("http-start-call", "ms", "a daemon until it has answered `calculator`"),
            beside=("python-start",),
        ),
        Row(
            *("http-start-route", "ms", "a daemon until one of its other routes has answered"),
            beside=("python-start",),
        ),
    ),
    _measure,
)
