"""FI-10: the client goes away before, during and after what it asked for."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

import pytest

from faults.remains import Remains
from faults.test_killed_daemon import records, until_runs
from mas_sandbox.audit.verify import verify
from running_daemon import TOKEN, RunningDaemon, daemon

WAITING = "setsid sh -c 'sleep 71.5' & sleep 71.5"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningDaemon, Remains]]:
    state = tmp_path_factory.mktemp("clients")
    with Remains(state) as remains:
        with daemon(state, "-pool", "0") as running:
            remains.watch(running.process.pid)
            running.execute("calculator", {"expression": "1"})
            yield running, remains
        remains.settled(killed=False)
    assert verify(state / "audit.jsonl").unfinished == 0


def head(path: str, length: int, accept: str = "*/*") -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
        f"content-type: application/json\r\naccept: {accept}\r\ncontent-length: {length}\r\n\r\n"
    ).encode()


def connected(running: RunningDaemon) -> socket.socket:
    host, _, port = running.url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), 10)


def body(command: str) -> bytes:
    return json.dumps({"tool": {"name": "bash", "args": {"command": command}}}).encode()


def idle(running: RunningDaemon, remains: Remains) -> None:
    remains.gone(3.0, but=[running.process.pid])


def until_recorded(running: RunningDaemon, kind: str, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 10
    while len(found := records(running.log.parent, kind)) < count:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


@pytest.mark.parametrize("sent", [10, 60, -20, -1])
def test_FI_10_before_the_call_is_whole_there_is_none(
    served: tuple[RunningDaemon, Remains], sent: int
) -> None:
    running, remains = served
    before = len(records(running.log.parent, "intent"))
    asked = body("echo never")
    whole = head("/v1/sandbox/execute", len(asked)) + asked
    with connected(running) as connection:
        connection.sendall(whole[:sent])
    assert running.execute("calculator", {"expression": "2"})["result"] == 2
    assert len(records(running.log.parent, "intent")) == before + 1
    idle(running, remains)


def test_FI_10_while_it_runs_it_is_cancelled_and_recorded(
    served: tuple[RunningDaemon, Remains],
) -> None:
    running, remains = served
    before = len(records(running.log.parent, "outcome"))
    asked = body(WAITING)
    with connected(running) as connection:
        connection.sendall(head("/v1/sandbox/execute", len(asked)) + asked)
        until_runs(remains, "sleep 71.5")
    idle(running, remains)
    assert until_recorded(running, "outcome", before + 1)[-1]["code"] == "interrupted"


def test_FI_10_after_it_has_run_its_outcome_stands(served: tuple[RunningDaemon, Remains]) -> None:
    running, remains = served
    before = len(records(running.log.parent, "outcome"))
    asked = body("echo over")
    with connected(running) as connection:
        connection.sendall(head("/v1/sandbox/execute", len(asked)) + asked)
        last = until_recorded(running, "outcome", before + 1)[-1]
    assert (last["status"], last["exit_code"]) == ("ok", 0)
    idle(running, remains)


@pytest.mark.parametrize("policy", ["detach", "cancel"])
def test_FI_10_a_process_goes_on_or_ends_as_was_declared(
    served: tuple[RunningDaemon, Remains], policy: str
) -> None:
    running, remains = served
    sandbox = running.post("/v1/sandboxes", {})[1]["sandbox_id"]
    path = f"/v1/sandboxes/{sandbox}/processes"
    command = "echo begun; while [ ! -e on ]; do sleep 0.02; done; echo over; exit 7"
    asked = json.dumps({"cmd": command, "tag": "t", "on_disconnect": policy}).encode()
    with connected(running) as connection:
        connection.sendall(head(path, len(asked), "application/x-ndjson") + asked)
        heard = b""
        while b'"stdout"' not in heard:
            heard += connection.recv(4096)
    if policy == "detach":
        running.execute("bash", {"command": "touch on"}, sandbox_id=sandbox)
    status, ended = running.post(f"{path}/t/wait", {"timeout_ms": 8000})
    assert status == 200, ended
    assert ended["exit_code"] == (7 if policy == "detach" else 128 + 9), ended
    again = urllib.request.Request(
        f"{running.url}{path}/t/events",
        headers={"authorization": f"Bearer {TOKEN}", "accept": "application/x-ndjson"},
    )
    with urllib.request.urlopen(again, timeout=10) as response:
        events = [json.loads(line) for line in response]
    written = b"".join(b64decode(each["data"]) for each in events if each["type"] == "stdout")
    assert written == b"begun\nover\n" if policy == "detach" else b"begun\n"
    assert (events[0]["type"], events[-1]["type"]) == ("start", "exit")
    running.post("/v1/sandbox/destroy", {"sandbox_id": sandbox})
    idle(running, remains)
