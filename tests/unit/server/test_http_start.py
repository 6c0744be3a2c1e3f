"""The short way to a process answers as the long one does, and none goes through a thread."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from doubles.http_door import http_door
from doubles.live_runtime import LiveRuntime
from mas_sandbox.server.http import code, execute, files, ports, processes, routes, sandboxes
from mas_sandbox.server.http.at_once import AtOnce
from mas_sandbox.server.http.stack import BoundedBody


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    with (
        http_door(tmp_path_factory.mktemp("door"), LiveRuntime()) as door,
        httpx2.Client(base_url=door.url, timeout=15) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def calling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    with (
        http_door(tmp_path_factory.mktemp("calls")) as door,
        httpx2.Client(base_url=door.url, timeout=15) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def url(client: httpx2.Client) -> str:
    return f"/v1/sandboxes/{client.post('/v1/sandbox/create', json={}).json()['sandbox_id']}"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"cmd": "echo x"}', 200),
        (b'{"argv": ["no-such-program"]}', 404),
        (b"{}", 400),
        (b'{"cmd": 1, "nonsense": 2}', 400),
        (b'{"cmd": "x", "cmd": "y"}', 400),
        (b"{", 400),
    ],
)
def test_it_answers_as_the_long_way_does(
    client: httpx2.Client, url: str, body: bytes, status: int
) -> None:
    kind = {"content-type": "application/json"}
    short, long = (
        client.post(f"{url}/processes{query}", content=body, headers=kind)
        for query in ("", "?wait=false")
    )
    assert (short.status_code, long.status_code) == (status, status), short.text
    assert short.headers["content-type"] == long.headers["content-type"]
    if status != 200:
        assert short.json() == long.json()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"tool": {"name": "calculator", "args": {"expression": "1+1"}}}', 200),
        (b'{"tool": {"name": "calculator", "args": {"expression": 1}}}', 200),
        (b'{"tool": {"name": "x"}, "sandbox_id": "nowhere"}', 404),
        (b'{"tool": {"name": "x"}, "policy": {"mem_mb": "a"}}', 400),
        (b'{"tool": {"name": "x"}, "tool": {"name": "y"}}', 400),
        (b"{}", 400),
        (b"[", 400),
    ],
)
def test_a_call_is_answered_as_the_long_way_does(
    calling: httpx2.Client, body: bytes, status: int
) -> None:
    kind = {"content-type": "application/json"}
    short, long = (
        calling.post(f"/v1/sandbox/execute{query}", content=body, headers=kind)
        for query in ("", "?x=1")
    )
    assert (short.status_code, long.status_code) == (status, status), short.text
    assert short.headers.keys() == long.headers.keys()
    said, expected = short.json(), long.json()
    if status == 200:
        for each in (said, expected):
            del each["tool_call_id"], each["usage"]
    assert said == expected


def test_shortcuts_lie_behind_every_layer(tmp_path: Path) -> None:
    with http_door(tmp_path) as door:
        assert [layer.cls for layer in door.app.layers][-2:] == [BoundedBody, AtOnce]


@pytest.mark.parametrize(
    "path", ["/v1/sandbox/execute", "/v1/sandboxes/sb_1/processes"], ids=["call", "process"]
)
def test_no_request_to_a_shortcut_reaches_a_route(path: str) -> None:
    app = AtOnce(_unreached, (execute.execute_at_once, processes.start_at_once), _said)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"[", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 400


async def _unreached(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the long way")


def _said(error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return Response(status_code=error.status_code)


def test_its_path_takes_what_else_it_took(client: httpx2.Client, url: str) -> None:
    assert client.get(f"{url}/processes").json().keys() == {"processes"}
    assert client.delete(f"{url}/processes").status_code == 405
    assert (
        "post"
        in client.get("/openapi.json").json()["paths"]["/v1/sandboxes/{sandbox_id}/processes"]
    )


@pytest.mark.parametrize(
    "router",
    [routes.guarded, *(room.router for room in (routes, sandboxes, processes, files, code, ports))],
)
def test_no_route_asks_a_thread_for_its_arguments(router: APIRouter) -> None:
    """FastAPI runs a dependency that is a plain function in a thread, 0.2 ms each."""
    found = [route.dependant for route in router.routes if isinstance(route, APIRoute)]
    assert found
    for dependant in found:
        for call in _calls(dependant):
            called = call if inspect.isroutine(call) else type(call).__call__
            assert inspect.iscoroutinefunction(called), called


def _calls(dependant: Dependant) -> Iterator[object]:
    for each in dependant.dependencies:
        yield each.call
        yield from _calls(each)
