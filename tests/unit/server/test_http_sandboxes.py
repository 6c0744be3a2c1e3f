"""`/v1/sandboxes` over the real HTTP door."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doubles.http_door import Door, http_door
from mas_sandbox.api.sandboxes import SandboxInfo, SandboxList
from mas_sandbox.policy.default import DEFAULT_POLICY
from mas_sandbox.policy.file import PolicyFile
from mas_sandbox.policy.principals import Principal, Principals, hash_token

BASE = "/v1/sandboxes"


class Caller:
    """Sends requests with one principal's token."""

    def __init__(self, door: Door, token: str = "") -> None:
        self._door = door
        self._token = token

    def send(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        headers = {"content-type": "application/json", "authorization": f"Bearer {self._token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._door.url + path, data=data, headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def create(self, **fields: Any) -> dict[str, Any]:
        status, made = self.send("POST", BASE, fields)
        assert status == 200, made
        SandboxInfo.model_validate(made)
        return made

    def pages(self, query: str, limit: int) -> list[list[str]]:
        found, cursor = [], ""
        while True:
            status, page = self.send("GET", f"{BASE}?limit={limit}{query}{cursor}")
            assert status == 200, page
            parsed = SandboxList.model_validate(page)
            found.append([each.sandbox_id for each in parsed.sandboxes])
            if parsed.next_cursor is None:
                return found
            cursor = f"&cursor={parsed.next_cursor}"


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    file = PolicyFile(
        {"default": DEFAULT_POLICY},
        Principals(
            (hash_token(name), Principal(name, DEFAULT_POLICY)) for name in ("alice", "bob")
        ),
        None,
    )
    with http_door(tmp_path, file=file) as opened:
        yield opened


def test_a_sandboxs_life_from_end_to_end(door: Door) -> None:
    alice = Caller(door, "alice")
    made = alice.create(
        policy={"timeout_ms": 5000},
        env={"COLOUR": "blue"},
        metadata={"run": "r-1"},
        timeout_s=100,
        idle_timeout_s=50,
        on_timeout="pause",
        min_isolation="vm",
        runtime="memory",
        image="of-memory",
    )
    assert made["state"] == "running"
    assert made["metadata"] == {"run": "r-1"}
    assert made["isolation"] == "vm"
    assert 99_000 < made["expires_ms"] - made["created_ms"] < 101_000
    place = f"{BASE}/{made['sandbox_id']}"
    assert alice.send("GET", place)[1]["state"] == "running"
    status, extended = alice.send("POST", f"{place}/extend", {"timeout_s": 1000})
    assert (status, extended["timeout_s"]) == (200, 1000)
    assert extended["expires_ms"] > made["expires_ms"]
    assert alice.send("POST", f"{place}/pause", {})[1]["state"] == "paused"
    call = {"tool": {"name": "bash", "args": {"command": "true"}}}
    call["sandbox_id"] = made["sandbox_id"]
    status, reply = alice.send("POST", "/v1/sandbox/execute", call)
    assert (status, reply["error"]["code"]) == (200, "invalid_request")
    assert alice.send("POST", f"{place}/resume", {})[1]["state"] == "running"
    assert alice.send("POST", "/v1/sandbox/execute", call)[1]["status"] == "ok"
    status, ended = alice.send("DELETE", place)
    assert (status, ended["state"], ended["reason"]) == (200, "ended", "deleted")
    assert alice.send("GET", place) == (200, ended)
    assert alice.send("DELETE", place)[0] == 404
    assert alice.send("POST", f"{place}/pause", {})[0] == 404


def test_lists_are_filtered_and_paged(door: Door) -> None:
    alice = Caller(door, "alice")
    names = [
        alice.create(metadata={"run": str(number % 2), "odd key&=": "ü"})["sandbox_id"]
        for number in range(5)
    ]
    Caller(door, "bob").create(metadata={"run": "0"})
    assert [name for page in alice.pages("", 2) for name in page] == names[::-1]
    assert [len(page) for page in alice.pages("", 2)] == [2, 2, 1]
    assert [len(page) for page in alice.pages("", 5)] == [5]
    found = alice.pages("&metadata.run=0&metadata.odd%20key%26%3D=%C3%BC", 100)
    assert found == [[names[4], names[2], names[0]]]
    assert alice.pages("&metadata.run=2", 100) == [[]]
    alice.send("DELETE", f"{BASE}/{names[0]}")
    alice.send("POST", f"{BASE}/{names[1]}/pause", {})
    assert alice.pages("", 100) == [names[:0:-1]]
    assert alice.pages("&state=ended&state=paused", 100) == [[names[1], names[0]]]


@pytest.mark.parametrize(
    "query",
    ["cursor=x", "limit=0", "limit=1001", "state=dead", "metadat.a=b", "metadata.a=1&metadata.a=2"],
)
def test_a_query_that_does_not_fit_is_refused(door: Door, query: str) -> None:
    status, problem = Caller(door, "alice").send("GET", f"{BASE}?{query}")
    assert (status, problem["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        {"timeout": 5},
        {"timeout_s": 0},
        {"timeout_s": 10**9},
        {"on_timeout": "keep"},
        {"runtime": "none"},
        {"image": "none"},
        {"env": {"LD_PRELOAD": "/x"}},
        {"env": {"JAVA_TOOL_OPTIONS": "-x"}},
        {"env": {"A": "\0"}},
        {"env": {f"A{number}": "x" * 8000 for number in range(5)}},
        {"metadata": {"a": "b\n"}},
        {"metadata": {"": "b"}},
        {"metadata": {str(number): "" for number in range(33)}},
    ],
)
def test_a_body_that_does_not_fit_is_refused_and_starts_nothing(
    door: Door, body: dict[str, Any]
) -> None:
    status, problem = Caller(door, "alice").send("POST", BASE, body)
    assert (status, problem["error"]["code"]) == (400, "invalid_request"), problem
    assert door.bench.runtime.sandboxes == []


def test_policies_only_narrow_here_too(door: Door) -> None:
    status, problem = Caller(door, "alice").send("POST", BASE, {"policy": {"mem_mb": 100_000}})
    assert (status, problem["error"]["code"]) == (403, "policy_denied")


def test_AP_06_a_foreign_sandbox_is_as_absent_as_none_in_the_same_words(door: Door) -> None:
    made = Caller(door, "alice").create()["sandbox_id"]
    bob = Caller(door, "bob")
    seen = set()
    for name in (made, "sb_never", made[:-1], "%00", "sb%2F..", "%EF%BD%93b_"):
        for method, rest, body in (
            ("GET", "", None),
            ("DELETE", "", None),
            ("POST", "/pause", {}),
            ("POST", "/resume", {}),
            ("POST", "/extend", {"timeout_s": 5}),
        ):
            status, problem = bob.send(method, f"{BASE}/{name}{rest}", body)
            if name != "sb%2F..":
                seen.add((status, json.dumps(problem)))
            assert status == 404
    assert len(seen) == 1
    assert bob.pages("", 10) == [[]]


def test_the_old_doors_share_the_registry(door: Door) -> None:
    alice = Caller(door, "alice")
    status, made = alice.send("POST", "/v1/sandbox/create", {"idle_timeout_s": 7})
    assert status == 200
    found = alice.send("GET", f"{BASE}/{made['sandbox_id']}")[1]
    assert (found["state"], found["idle_timeout_s"]) == ("running", 7)
    status, _ = alice.send("POST", "/v1/sandbox/destroy", {"sandbox_id": made["sandbox_id"]})
    assert status == 200
    assert alice.send("GET", f"{BASE}/{made['sandbox_id']}")[1]["state"] == "ended"
