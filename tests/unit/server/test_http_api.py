"""The endpoints, over a real connection."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from doubles.http_door import Door, http_door
from doubles.memory_runtime import MemoryRuntime, returned
from mas_sandbox.api.models import (
    CreateReply,
    DestroyReply,
    ExecuteReply,
    Health,
    Problem,
    RuntimeList,
    ToolList,
)
from mas_sandbox.policy.file import load_policy_file
from mas_sandbox.policy.principals import hash_token
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.messages import Call

TOKEN = "t" * 32
SUM = {"tool": {"name": "calculator", "args": {"expression": "1"}}}


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with http_door(tmp_path) as opened:
        yield opened


@pytest.fixture
def client(door: Door) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=door.url, timeout=15) as made:
        yield made


def problem(response: httpx2.Response) -> tuple[int, str]:
    """Status and code, after the body was held to its model."""
    return response.status_code, Problem.model_validate_json(response.content).error.code


def test_a_call_is_answered_in_the_published_shape(client: httpx2.Client) -> None:
    response = client.post("/v1/sandbox/execute", json=SUM | {"tool_call_id": "mine-1"})
    reply = ExecuteReply.model_validate_json(response.content)
    assert (response.status_code, reply.status, reply.tool_call_id) == (200, "ok", "mine-1")
    assert reply.result == {"expression": "1"}
    assert set(response.json()) == set(ExecuteReply.model_fields)


def test_a_decided_call_is_a_200_even_when_denied(client: httpx2.Client) -> None:
    body = SUM | {"policy": {"tools": ["bash"]}}
    response = client.post("/v1/sandbox/execute", json=body)
    reply = ExecuteReply.model_validate_json(response.content)
    assert response.status_code == 200
    assert reply.error is not None
    assert reply.error.code == "policy_denied"


def test_a_sandbox_lives_from_create_to_destroy(client: httpx2.Client) -> None:
    made = CreateReply.model_validate_json(client.post("/v1/sandbox/create", json={}).content)
    name = {"sandbox_id": made.sandbox_id}
    assert client.post("/v1/sandbox/execute", json=SUM | name).status_code == 200
    gone = client.post("/v1/sandbox/destroy", json=name)
    assert DestroyReply.model_validate_json(gone.content).sandbox_id == made.sandbox_id
    for path, body in (("execute", SUM | name), ("destroy", name)):
        response = client.post(f"/v1/sandbox/{path}", json=body)
        assert problem(response) == (404, "not_found")


def test_creating_what_the_policy_forbids_is_a_problem(client: httpx2.Client) -> None:
    response = client.post("/v1/sandbox/create", json={"policy": {"mem_mb": 100_000}})
    assert problem(response) == (403, "policy_denied")


def test_the_go_spelling_is_understood(client: httpx2.Client) -> None:
    body = SUM | {"policy": {"AllowedTools": ["bash"], "Timeout": 5_000_000_000}}
    assert client.post("/v1/sandbox/execute", json=body).json()["status"] == "error"


def test_health_and_tools_are_in_their_shape(client: httpx2.Client) -> None:
    health = Health.model_validate_json(client.get("/v1/sandbox/health").content)
    assert (health.status, health.runtime) == ("ok", "memory")
    tools = ToolList.model_validate_json(client.get("/v1/tools").content)
    assert "calculator" in {tool.name for tool in tools.tools}


def test_the_matrix_tells_of_every_control(client: httpx2.Client) -> None:
    found = RuntimeList.model_validate_json(client.get("/v1/runtimes").content)
    (runtime,) = found.runtimes
    assert (runtime.name, runtime.default, runtime.available) == ("memory", True, True)
    assert runtime.controls.keys() == set(Control)
    assert {control.status for control in runtime.controls.values()} == {"enforced"}


def test_every_endpoint_is_in_the_openapi_document(client: httpx2.Client) -> None:
    document = client.get("/openapi.json").json()
    of_sandboxes = "/v1/sandboxes"  # see test_http_sandboxes.py and test_http_live_*.py
    assert {path for path in document["paths"] if not path.startswith(of_sandboxes)} == {
        *("/v1/sandbox/execute", "/v1/sandbox/create", "/v1/sandbox/destroy"),
        *("/v1/sandbox/health", "/v1/tools", "/v1/runtimes"),
    }
    execute = document["paths"]["/v1/sandbox/execute"]["post"]
    body = execute["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert body.endswith("/ExecuteRequest")
    reply = execute["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert reply.endswith("/ExecuteReply")
    assert {"401", "403", "413", "415", "429"} <= execute["responses"].keys()
    assert execute["security"]


def test_the_page_of_the_api_loads_nothing(client: httpx2.Client) -> None:
    response = client.get("/docs")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for words in ("/v1/sandbox/execute", "ExecuteRequest", "timeout_ms"):
        assert words in response.text
    assert "<script" not in response.text
    assert "src=" not in response.text


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "tool: Field required"),
        ({"tool": {"name": "bash", "argz": {}}}, "tool.argz: unknown field"),
        (SUM | {"policy": {"mem": 1}}, "policy.mem: unknown field"),
        (SUM | {"policy": {"timeout_ms": "5"}}, "policy.timeout_ms"),
        (SUM | {"sandbox_id": "../x"}, "sandbox_id"),
        (SUM | {"tool_call_id": "a\nb"}, "tool_call_id"),
        (SUM | {"tool_call_id": "\u202eevil"}, "tool_call_id"),
        (SUM | {f"key{n}": n for n in range(5000)}, "fields"),
    ],
)
def test_what_does_not_fit_is_named(
    client: httpx2.Client, body: dict[str, Any], words: str
) -> None:
    response = client.post("/v1/sandbox/execute", json=body)
    assert problem(response) == (400, "invalid_request")
    assert words in response.json()["error"]["message"]
    assert len(response.content) < 2000


def test_what_is_not_there_is_a_problem_too(client: httpx2.Client) -> None:
    assert problem(client.get("/v2")) == (404, "not_found")
    assert problem(client.get("/v1/sandbox/execute")) == (405, "invalid_request")


def test_a_token_is_asked_for_wherever_calls_are(tmp_path: Path) -> None:
    with http_door(tmp_path, token=TOKEN) as door, httpx2.Client(base_url=door.url) as client:
        for method, path in (
            ("POST", "/v1/sandbox/execute"),
            ("POST", "/v1/sandbox/create"),
            ("POST", "/v1/sandbox/destroy"),
            ("GET", "/v1/tools"),
            ("GET", "/v1/runtimes"),
            ("GET", "/nothing"),
            ("GET", "/V1/sandbox/health"),
            ("GET", "/v1/sandbox/health/"),
        ):
            for headers in ({}, {"authorization": "Bearer wrong"}):
                response = client.request(method, path, headers=headers)
                assert problem(response) == (401, "policy_denied"), path
                assert response.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/v1/sandbox/health").status_code == 200
        headers = {"authorization": f"Bearer {TOKEN}"}
        assert client.post("/v1/sandbox/execute", json=SUM, headers=headers).status_code == 200
        assert door.bench.records("intent")[0]["principal"] == "default"


def test_principals_have_their_own_policies_and_sandboxes(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "version: 1\npolicies: {small: {tools: [calculator]}, all: {tools: ['*']}}\n"
        "principals:\n"
        f"- {{name: ann, token_sha256: [{hash_token('a' * 32)}], policy: small}}\n"
        f"- {{name: bob, token_sha256: [{hash_token('b' * 32)}], policy: all}}\n"
    )
    path.chmod(0o600)
    ann, bob = ({"authorization": "Bearer " + letter * 32} for letter in "ab")
    with (
        http_door(tmp_path / "state", file=load_policy_file(path)) as door,
        httpx2.Client(base_url=door.url) as client,
    ):
        names = [tool["name"] for tool in client.get("/v1/tools", headers=ann).json()["tools"]]
        assert names == ["calculator"]
        made = client.post("/v1/sandbox/create", json={}, headers=bob).json()
        body = SUM | {"sandbox_id": made["sandbox_id"]}
        assert client.post("/v1/sandbox/execute", json=body, headers=bob).status_code == 200
        foreign = client.post("/v1/sandbox/execute", json=body, headers=ann)
        absent = client.post(
            "/v1/sandbox/execute", json=SUM | {"sandbox_id": "sb_none"}, headers=ann
        )
        assert (foreign.status_code, foreign.content) == (404, absent.content)


def test_overload_is_a_429_that_says_when_to_come_back(tmp_path: Path) -> None:
    release = threading.Event()

    async def wait(call: Call) -> CallOutcome:
        while not release.is_set():
            await asyncio.sleep(0.01)
        return returned(1)

    with (
        http_door(tmp_path, MemoryRuntime(wait), max_running=2, max_queue=3) as door,
        httpx2.Client(base_url=door.url, timeout=15) as client,
        ThreadPoolExecutor(12) as threads,
    ):
        asked = [threads.submit(client.post, "/v1/sandbox/execute", json=SUM) for _ in range(12)]
        refused = []
        while len(refused) < 7:
            refused = [each.result() for each in asked if each.done()]
        release.set()
        statuses = sorted(each.result().status_code for each in asked)
        assert statuses == [200] * 5 + [429] * 7
        for response in refused:
            assert problem(response) == (429, "overloaded")
            assert int(response.headers["retry-after"]) >= 1


def test_a_client_that_hangs_up_cancels_its_call(tmp_path: Path) -> None:
    cancelled = threading.Event()

    async def wait(call: Call) -> CallOutcome:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    with http_door(tmp_path, MemoryRuntime(wait)) as door:
        body = json.dumps(SUM).encode()
        with door.connect() as connection:
            connection.sendall(
                b"POST /v1/sandbox/execute HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
            )
            while not door.bench.runtime.sandboxes:
                pass
        assert cancelled.wait(5)
    assert door.bench.records("outcome")[0]["code"] == "interrupted"


def test_while_draining_calls_are_told_to_come_back(tmp_path: Path) -> None:
    with http_door(tmp_path) as door, httpx2.Client(base_url=door.url) as client:
        door.bench.broker.draining = True
        response = client.post("/v1/sandbox/execute", json=SUM)
        assert problem(response) == (503, "overloaded")
        assert "retry-after" in response.headers
        assert client.get("/v1/sandbox/health").json()["status"] == "draining"


def test_a_fault_of_ours_is_a_500_without_particulars(tmp_path: Path) -> None:
    runtime = MemoryRuntime()
    runtime.fail_start = ZeroDivisionError("secret detail")
    with http_door(tmp_path, runtime) as door, httpx2.Client(base_url=door.url) as client:
        response = client.post("/v1/sandbox/create", json={})
        assert problem(response) == (500, "internal")
        assert "secret detail" not in response.text


def test_many_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    async def ask(url: str) -> list[str]:
        limits = httpx2.Limits(max_connections=200)
        async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits) as client:

            async def one(number: int) -> str:
                args = {"expression": str(number)}
                body = {"tool": {"name": "calculator", "args": args}}
                response = await client.post("/v1/sandbox/execute", json=body)
                result: str = response.json()["result"]["expression"]
                return result

            return await asyncio.gather(*(one(number) for number in range(300)))

    with http_door(tmp_path, max_queue=300) as door:
        assert asyncio.run(ask(door.url)) == [str(number) for number in range(300)]
