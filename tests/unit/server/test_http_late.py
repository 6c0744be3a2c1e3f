"""The daemon's routes are built while it answers: what waits for them, and what does not."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from time import monotonic, sleep

import httpx2
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from mas_sandbox.server.http.late import Late

LATER = {"fastapi", "h11", "schemathesis", "websockets", "yaml", "mas_sandbox.api.live"}
"""What the daemon needs, or others do, and its first answer does not."""
CALL = {"tool": {"name": "calculator", "args": {"expression": "15*8+7"}}}


def test_the_start_imports_nothing_that_can_come_later() -> None:
    look = (
        "import json, sys\n"
        "from mas_sandbox.server.http import app, serve\n"
        "print(json.dumps(list(sys.modules)))\n"
    )
    ended = subprocess.run([sys.executable, "-c", look], capture_output=True, timeout=60)
    assert not LATER & set(json.loads(ended.stdout))


def test_calls_are_answered_before_the_routes_are_there_and_a_daemon_without_them_ends(
    tmp_path: Path,
) -> None:
    """A FastAPI that is long in coming, and then fails to."""
    held, port = tmp_path / "held", free_port()
    os.mkfifo(held)
    (tmp_path / "fastapi.py").write_text(
        f"open({str(held)!r}).read()\nraise ImportError('is away')"
    )
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mas_sandbox.server.main"),
            *("-runtime", "local", "-listen", f"127.0.0.1:{port}"),
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
    )
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=15) as client:
            assert healthy(client)
            assert client.post("/v1/sandbox/execute", json=CALL).json()["result"] == 127
            with pytest.raises(httpx2.TimeoutException):
                client.get("/v1/tools", timeout=0.2)
        held.write_text("")
        _, words = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert b"is away" in words


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def healthy(client: httpx2.Client) -> bool:
    deadline = monotonic() + 60
    while monotonic() < deadline:
        try:
            return client.get("/v1/sandbox/health").json()["status"] == "ok"
        except httpx2.ConnectError:
            sleep(0.02)
    return False


async def answered(late: ASGIApp) -> str:
    said: list[str] = []

    async def receive() -> dict[str, str]:
        raise AssertionError("nothing is read")

    async def send(message: dict[str, str]) -> None:
        said.append(message["type"])

    await late({"type": "http"}, receive, send)
    return said[0]


def test_it_is_built_once_for_all_who_wait_and_one_that_goes_stops_nothing() -> None:
    held, builds = threading.Event(), 0

    async def built(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "answered"})

    def build() -> ASGIApp:
        nonlocal builds
        builds += 1
        assert held.wait(30)
        return built

    async def ask() -> list[str]:
        late = Late(build)
        gone, *waiting = (asyncio.create_task(answered(late)) for _ in range(3))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        held.set()
        return await asyncio.gather(*waiting)

    assert asyncio.run(ask()) == ["answered"] * 2
    assert builds == 1
