"""The short way to a process answers as the long one does, and none goes through a thread."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import httpx2
import pytest
from fastapi import APIRouter
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from doubles.http_door import http_door
from doubles.live_runtime import LiveRuntime
from mas_sandbox.server.http import code, files, ports, processes, routes, sandboxes


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    with (
        http_door(tmp_path_factory.mktemp("door"), LiveRuntime()) as door,
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
