"""The header Idempotency-Key: how it is written, where it is taken, what it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from doubles.http_door import http_door
from doubles.live_runtime import LiveRuntime
from doubles.memory_runtime import MemoryRuntime
from mas_sandbox.api.models import ExecuteReply, Problem

SUM = {"tool": {"name": "calculator", "args": {"expression": "1"}}}


def client_of(directory: Path, runtime: MemoryRuntime) -> Iterator[httpx2.Client]:
    with (
        http_door(directory, runtime) as door,
        httpx2.Client(base_url=door.url, timeout=15) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    yield from client_of(tmp_path_factory.mktemp("door"), MemoryRuntime())


@pytest.fixture
def live(tmp_path: Path) -> Iterator[httpx2.Client]:
    """Where processes can be started."""
    yield from client_of(tmp_path, LiveRuntime())


def post(
    client: httpx2.Client, path: str, body: object, *keys: str, accept: str = "*/*"
) -> httpx2.Response:
    headers = [("idempotency-key", key) for key in keys]
    return client.post(path, json=body, headers=[*headers, ("accept", accept)])


def code(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, Problem.model_validate_json(response.content).error.code


def test_quoted_and_bare_are_the_same_key_and_blanks_of_the_body_no_other(
    client: httpx2.Client,
) -> None:
    first = post(client, "/v1/sandbox/execute", SUM, '"form-1"')
    again = client.post(
        "/v1/sandbox/execute?",
        content=b' { "tool": {"args":{"expression":"1"}, "name":"calculator"}}',
        headers={"idempotency-key": "form-1", "content-type": "application/json"},
    )
    assert (first.status_code, "idempotency-replayed" in first.headers) == (200, False)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    told = ExecuteReply.model_validate_json(again.content)
    assert told.replayed
    assert again.json() == first.json() | {"replayed": True}


@pytest.mark.parametrize(
    "keys",
    [
        ("",),
        ('""',),
        ('"open',),
        ('"a\\b"',),
        ('"a";q=1',),
        ("a, b",),
        ("a b",),
        ("a", "a"),
        ("x" * 256,),
        ('"' + "x" * 256 + '"',),
    ],
)
def test_what_is_no_key_is_a_400(client: httpx2.Client, keys: tuple[str, ...]) -> None:
    assert code(post(client, "/v1/sandbox/execute", SUM, *keys)) == (400, "invalid_request")


def test_another_body_or_another_route_is_a_409(client: httpx2.Client) -> None:
    assert post(client, "/v1/sandbox/execute", SUM, "taken").status_code == 200
    other = {"tool": {"name": "calculator", "args": {"expression": "2"}}}
    for path, body in (("/v1/sandbox/execute", other), ("/v1/sandboxes", {})):
        assert code(post(client, path, body, "taken")) == (409, "idempotency_conflict")


@pytest.mark.parametrize("path", ["/v1/sandboxes", "/v1/sandbox/create"])
def test_a_sandbox_is_made_once(client: httpx2.Client, path: str) -> None:
    before = client.get("/v1/sandbox/health").json()["sandboxes"]
    first, again = (post(client, path, {}, f"made-{path}") for _ in range(2))
    assert (first.json(), again.status_code) == (again.json(), 200)
    assert again.headers["idempotency-replayed"] == "true"
    assert client.get("/v1/sandbox/health").json()["sandboxes"] == before + 1


def test_a_process_is_started_once_and_its_start_is_what_is_kept(live: httpx2.Client) -> None:
    made = live.post("/v1/sandboxes", json={}).json()["sandbox_id"]
    path = f"/v1/sandboxes/{made}/processes"
    first, again = (post(live, path, {"argv": ["sleep"]}, "process") for _ in range(2))
    assert (first.status_code, first.json()) == (200, again.json())
    assert len(live.get(path).json()["processes"]) == 1
    for asked, accept in ((path + "?wait=true", "*/*"), (path, "application/x-ndjson")):
        refused = post(live, asked, {"argv": ["sleep"]}, "waits", accept=accept)
        assert code(refused) == (400, "invalid_request")


def test_where_no_key_is_taken_it_is_refused(client: httpx2.Client) -> None:
    made = client.post("/v1/sandboxes", json={}).json()["sandbox_id"]
    refused = post(client, f"/v1/sandboxes/{made}/code/run", {"code": "1"}, "k")
    assert code(refused) == (400, "invalid_request")
    named = client.get(f"/v1/sandboxes/{made}", headers={"idempotency-key": "k"})
    assert named.status_code == 200


def test_the_description_names_the_header_where_it_is_taken(client: httpx2.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    takes = {
        path
        for path, item in paths.items()
        for each in item.get("post", {}).get("parameters", ())
        if each["name"] == "Idempotency-Key"
    }
    assert takes == {
        "/v1/sandbox/execute",
        "/v1/sandbox/create",
        "/v1/sandboxes",
        "/v1/sandboxes/{sandbox_id}/processes",
    }
