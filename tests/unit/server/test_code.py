"""Contexts and runs over a real connection, with a kernel that says whatever the test wants."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import doubles.code_kernel
from doubles.http_door import Door, http_door
from doubles.live_runtime import LiveGuest, LiveRuntime
from mas_sandbox.api.code import CodeEvent, ContextInfo, Execution
from mas_sandbox.server.live import code as codes_module
from mas_sandbox.server.live import code_context, code_kernel, code_marks

NDJSON = {"accept": "application/x-ndjson"}
SSE = {"accept": "text/event-stream"}
TOKEN = "t" * 32
BEARER = {"authorization": f"Bearer {TOKEN}"}


class Place:
    """A sandbox, over HTTP."""

    def __init__(
        self, door: Door, client: httpx2.Client, runtime: LiveRuntime, **policy: Any
    ) -> None:
        self.door = door
        self.client = client
        self.runtime = runtime
        made = client.post("/v1/sandbox/create", json={"policy": policy} if policy else {})
        assert made.status_code == 200, made.text
        self.id = made.json()["sandbox_id"]
        self.guest: LiveGuest = runtime.guests[-1]
        self.url = f"/v1/sandboxes/{self.id}/code"

    def context(self, **body: Any) -> str:
        response = self.client.post(f"{self.url}/contexts", json=body)
        assert response.status_code == 200, response.text
        return ContextInfo.model_validate_json(response.content).context_id

    def info(self, context: str) -> ContextInfo:
        response = self.client.get(f"{self.url}/contexts/{context}")
        return ContextInfo.model_validate_json(response.content)

    def body(self, *verbs: list[Any], **fields: Any) -> dict[str, Any]:
        return {"code": json.dumps(verbs), **fields}

    def run(self, *verbs: list[Any], **fields: Any) -> Execution:
        response = self.client.post(f"{self.url}/run", json=self.body(*verbs, **fields))
        assert response.status_code == 200, response.text
        return Execution.model_validate_json(response.content)

    def problem(self, *verbs: list[Any], **fields: Any) -> tuple[int, str]:
        response = self.client.post(f"{self.url}/run", json=self.body(*verbs, **fields))
        return response.status_code, response.json()["error"]["code"]

    def events(self, *verbs: list[Any], **fields: Any) -> list[dict[str, Any]]:
        body = self.body(*verbs, **fields)
        with self.client.stream("POST", f"{self.url}/run", json=body, headers=NDJSON) as response:
            lines = list(response.iter_lines())
        for line in lines:
            CodeEvent.model_validate_json(line)
        return [json.loads(line) for line in lines]

    def until(self, context: str, **wanted: Any) -> ContextInfo:
        deadline = time.monotonic() + 10
        while not wanted.items() <= (info := self.info(context)).model_dump().items():
            assert time.monotonic() < deadline, info
            time.sleep(0.01)
        return info

    def until_uses(self, count: int) -> None:
        """Until so many things are done in the sandbox."""
        named = self.door.bench.broker.sandboxes.find("default", self.id)
        deadline = time.monotonic() + 10
        while named.uses != count:
            assert time.monotonic() < deadline, named.uses
            time.sleep(0.01)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    runtime = LiveRuntime()
    with (
        http_door(tmp_path, runtime, token=TOKEN) as door,
        httpx2.Client(base_url=door.url, timeout=15, headers=BEARER) as client,
    ):
        yield Place(door, client, runtime)


class unread:
    """A run whose answer nobody reads, and whose client is gone at the end of the block."""

    def __init__(self, place: Place, body: dict[str, Any], accept: str = NDJSON["accept"]) -> None:
        content = json.dumps(body).encode()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", place.door.port))
        self._socket.sendall(
            b"POST %b/run HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nauthorization: Bearer %b\r\n"
            b"accept: %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (
                *(place.url.encode(), place.door.port, TOKEN.encode()),
                *(accept.encode(), len(content), content),
            )
        )

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def started(pool: ThreadPoolExecutor, place: Place, context: str) -> Future[Execution]:
    """A run that waits for a SIGINT."""
    running = pool.submit(place.run, ["wait"], context_id=context)
    place.until(context, state="busy")
    return running


def test_a_run_is_told_in_the_same_words_everywhere(place: Place) -> None:
    verbs: list[list[Any]] = [
        ["out", "caf\udcc3"],
        ["out", "\udca9\n"],
        ["say", {"type": "result", "data": {"text/plain": "1"}, "main": False}],
        ["err", "bad"],
        ["say", {"type": "exception", "name": "E", "value": "v", "traceback": "t"}],
    ]
    lines = place.events(*verbs)
    kinds = [event["type"] for event in lines]
    assert [kinds[0], *kinds[-4:]] == ["start", "result", "stderr", "exception", "end"]
    printed = [event["text"] for event in lines if event["type"] == "stdout"]
    assert "".join(printed) == "caf\u00e9\n"  # a character that was cut in two
    body = place.body(*verbs)
    with place.client.stream("POST", f"{place.url}/run", json=body, headers=SSE) as response:
        sent = "".join(response.iter_text()).split("\n\n")
    told = [dict(line.split(": ", 1) for line in event.split("\n")) for event in sent if event]
    assert [event["event"] for event in told][-4:] == kinds[-4:]
    assert all(json.loads(event["data"])["type"] == event["event"] for event in told)
    events: list[dict[str, Any]] = []
    url = f"ws://127.0.0.1:{place.door.port}{place.url}/run/ws"
    with connect(url, compression=None, additional_headers=BEARER) as over:
        over.send(json.dumps(body))
        with pytest.raises(ConnectionClosed):
            while True:
                events.append(json.loads(over.recv(10)))
    assert [event["type"] for event in events][-4:] == kinds[-4:]
    whole = place.run(*verbs)
    assert (whole.stdout, whole.stderr, whole.execution) == ("café\n", "bad", 4)
    assert whole.results[0].data == {"text/plain": "1"}
    assert (whole.exception and whole.exception.name) == "E"


@pytest.mark.parametrize(
    ("message", "code"),
    [("{}", "invalid_request"), ('{"code": "[]", "x": 1}', "invalid_request"), ("[", "invalid")],
)
def test_a_first_message_that_makes_no_sense_is_refused(
    place: Place, message: str, code: str
) -> None:
    url = f"ws://127.0.0.1:{place.door.port}{place.url}/run/ws"
    with connect(url, compression=None, additional_headers=BEARER) as over:
        over.send(message)
        assert json.loads(over.recv(10))["error"]["code"].startswith(code)
    with pytest.raises(InvalidStatus, match="404"):
        connect(url.replace(place.id, "sb_none"), compression=None, additional_headers=BEARER)


def test_a_context_is_started_as_the_policy_and_its_maker_say(place: Place) -> None:
    context = place.context(cwd="/workspace/x", env={"A": "1"})
    (process,) = place.guest.started
    assert (process.argv[0], process.cwd, process.env) == ("python3", "/workspace/x", {"A": "1"})
    assert process.paths == [("/workspace", "rw")]
    listed = place.client.get(f"{place.url}/contexts").json()["contexts"]
    assert [each["context_id"] for each in listed] == [context]
    assert place.client.get(f"{place.url}/contexts/ctx_none").status_code == 404
    assert place.problem(context_id="ctx_none") == (404, "not_found")
    foreign = place.client.get(place.url.replace(place.id, "sb_none") + "/contexts")
    assert foreign.status_code == 404


def test_what_is_done_is_decided_and_recorded(place: Place) -> None:
    when = {"code": {"glob": "*secret*"}}
    rule = {"action": "deny", "tools": ["code"], "when": when, "reason": "secrets"}
    place = Place(place.door, place.client, place.runtime, rules=[rule])
    context = place.context()
    assert place.run(["out", "fine"], context_id=context).stdout == "fine"
    assert place.problem(["out", "secret"], context_id=context) == (403, "policy_denied")
    place.run(["exit", 3], context_id=context)
    place.client.post(f"{place.url}/contexts/{context}/restart", json={})
    intents = [each for each in place.door.bench.records("intent") if each["tool"] == "code"]
    decided = [each["decision"]["action"] for each in intents]
    assert decided == ["allow", "allow", "deny", "allow", "allow"]
    ended = {each["call_id"]: each["code"] for each in place.door.bench.records("outcome")}
    codes = [ended[each["call_id"]] for each in intents]
    assert codes == ["", "", "policy_denied", "tool_failed", ""]


def test_runs_take_turns_and_only_so_many_wait(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_context, "MAX_RUNS", 3)
    context = place.context()
    with ThreadPoolExecutor() as pool:
        first = started(pool, place, context)
        others = [pool.submit(place.run, ["out", "x"], context_id=context) for _ in range(2)]
        place.until_uses(3)
        assert place.info(context).executions == 1
        assert place.problem(context_id=context) == (429, "overloaded")
        place.client.post(f"{place.url}/contexts/{context}/interrupt", json={})
        assert first.result().status == "interrupted"
        assert {other.result().stdout for other in others} == {"x"}
    assert place.info(context).executions == 3


def test_there_are_only_so_many_contexts(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes_module, "MAX_CONTEXTS", 2)
    context = place.context()
    place.run(["out", "the sandbox's own"])
    response = place.client.post(f"{place.url}/contexts", json={})
    assert (response.status_code, response.json()["error"]["code"]) == (429, "overloaded")
    place.client.delete(f"{place.url}/contexts/{context}")
    place.context()


def test_an_interrupt_where_nothing_runs_does_nothing(place: Place) -> None:
    context = place.context()
    place.client.post(f"{place.url}/contexts/{context}/interrupt", json={})
    assert place.run(["out", "x"], context_id=context).status == "ok"


def test_an_interrupt_that_comes_before_the_code_is_begun_is_not_lost(place: Place) -> None:
    context = place.context()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(place.run, ["late"], ["wait"], context_id=context)
        place.until(context, state="busy")
        place.client.post(f"{place.url}/contexts/{context}/interrupt", json={})
        assert running.result().status == "interrupted"
        # Nor one that comes while the next run waits until no signal of this one can reach it.
        for _ in range(2):
            running = pool.submit(place.run, ["wait"], context_id=context)
            place.until(context, state="busy")
            place.client.post(f"{place.url}/contexts/{context}/interrupt", json={})
            assert running.result().status == "interrupted"


def test_what_does_not_heed_its_deadline_is_ended_though_nobody_reads(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_context, "GRACE_S", 0.2)
    context = place.context()
    ran = place.run(["deaf"], context_id=context, timeout_ms=50)
    assert (ran.status, ran.error and ran.error.code) == ("lost", "timeout")
    assert place.info(context).state == "dead"
    context = place.context()
    body = place.body(["flood", 5_000_000], ["wait"], context_id=context, timeout_ms=300)
    with unread(place, body):
        place.until(context, state="idle", executions=1)


def test_a_kernel_that_dies_fails_its_run_and_all_that_wait(place: Place) -> None:
    context = place.context()
    ran = place.run(["out", "last words"], ["exit", 9], context_id=context)
    assert (ran.status, ran.stdout) == ("lost", "last words")
    assert (ran.error and ran.error.code) == "tool_failed"
    assert place.problem(context_id=context) == (409, "invalid_request")
    again = place.client.post(f"{place.url}/contexts/{context}/restart", json={}).json()
    assert (again["state"], again["restarts"]) == ("idle", 1)
    assert place.run(["out", "x"], context_id=context).execution == 2


def test_a_restart_and_a_close_lose_what_runs_and_what_waits(place: Place) -> None:
    context = place.context()
    with ThreadPoolExecutor() as pool:
        for change in ("restart", "close"):
            running = started(pool, place, context)
            waiting = pool.submit(place.run, ["out", "x"], context_id=context)
            place.until_uses(2)
            if change == "restart":
                place.client.post(f"{place.url}/contexts/{context}/restart", json={})
            else:
                place.client.delete(f"{place.url}/contexts/{context}")
            for each in (running.result(), waiting.result()):
                assert (each.status, each.error and each.error.code) == ("lost", "interrupted")


def test_the_end_of_the_sandbox_ends_what_runs(place: Place) -> None:
    context = place.context()
    with ThreadPoolExecutor() as pool:
        running = started(pool, place, context)
        place.client.post("/v1/sandbox/destroy", json={"sandbox_id": place.id})
        assert running.result(10).status == "lost"


def test_one_that_runs_keeps_its_sandbox_from_being_idle(place: Place) -> None:
    context = place.context()
    with ThreadPoolExecutor() as pool:
        running = started(pool, place, context)
        place.until_uses(1)
        place.client.post(f"{place.url}/contexts/{context}/interrupt", json={})
        running.result()
    place.until_uses(0)


FORGED: list[list[Any]] = [
    ["raw", "MARK0002.{}"],
    ["raw", 'MARK0005.{"a":'],
    ["say", {"type": "end", "execution": 99, "status": "ok"}],
    ["say", {"type": "ready", "kernel": "ipython"}],
    ["say", {"type": "failed", "message": "no"}],
    ["say", {"type": "start", "context_id": "other", "execution": 1}],
    ["say", {"type": "result", "data": {"text/plain": 5}, "main": True}],
    ["say", {"type": "keepalive"}],
    ["raw", "MARK"],
]


def test_what_code_says_in_the_kernels_place_concerns_only_itself(place: Place) -> None:
    context, other = place.context(), place.context()
    for said in FORGED:
        ran = place.run(said, ["out", "more"], context_id=context)
        assert ran.stdout.endswith("more")
        assert (ran.status, ran.context_id) == ("ok", context)
        assert place.run(["out", "x"], context_id=other).stdout == "x"
    assert place.info(context).kernel == "plain"


def test_the_end_of_another_run_is_not_this_ones(place: Place) -> None:
    end = {"type": "end", "execution": 9, "status": "ok"}
    ran = place.run(["say", end], ["end_errors", 9], ["out", "more"])
    assert (ran.stdout, ran.results) == ("more", ())


def test_a_run_whose_end_is_forged_ends_and_what_comes_after_is_nobodys(place: Place) -> None:
    context = place.context()
    forged = ["say", {"type": "end", "execution": 1, "status": "exception"}]
    ran = place.run(forged, ["err", "late"], context_id=context)
    assert (ran.status, ran.stderr) == ("ok", "late")
    assert place.run(["out", "x"], context_id=context).stdout == "x"


def test_results_that_are_too_long_are_left_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_marks, "MAX_MESSAGE", 100_000)
    ran = place.run(["long", 90_000], ["long", 200_000], ["out", "x"])
    texts = [result.data["text/plain"] for result in ran.results]
    assert (len(texts[0]), "left out" in texts[1], ran.stdout) == (90_000, True, "x")


def test_a_whole_answer_tells_the_beginning_of_what_is_too_much(place: Place) -> None:
    ran = place.run(["flood", 3_000_000], *[["long", 3_000_000]] * 3)
    assert (len(ran.stdout), len(ran.results), ran.truncated) == (1024 * 1024, 2, True)


def test_a_reader_that_is_slow_holds_up_the_code_and_one_that_leaves_does_not(
    place: Place,
) -> None:
    context = place.context()
    verbs = ["flood", 50_000_000], ["out", "end"]
    with unread(place, place.body(*verbs, context_id=context, on_disconnect="detach")):
        place.until(context, state="busy")
        (running,) = place.guest.streams.values()
        written = -1
        while written != running.written:  # until it is held up
            written = running.written
            time.sleep(0.3)
        assert written < 10_000_000
        assert place.info(context).state == "busy"
    place.until(context, state="idle")
    assert running.written > 50_000_000


@pytest.mark.parametrize(("asked", "state"), [("cancel", "idle"), ("detach", "busy")])
@pytest.mark.parametrize("accept", [NDJSON["accept"], "*/*"], ids=["a stream", "a whole"])
def test_a_client_that_leaves_interrupts_it_or_not_as_it_asked(
    place: Place, asked: str, state: str, accept: str
) -> None:
    context = place.context()
    body = place.body(["wait"], context_id=context, on_disconnect=asked)
    with unread(place, body, accept):
        place.until(context, state="busy")
    if state == "busy":
        time.sleep(0.3)
        assert place.info(context).state == "busy"
        place.client.post(f"{place.url}/contexts/{context}/interrupt", json={})
    place.until(context, state="idle", executions=1)


def test_one_that_left_before_its_turn_is_not_run(place: Place) -> None:
    context = place.context()
    with ThreadPoolExecutor() as pool:
        running = started(pool, place, context)
        with unread(place, place.body(["out", "x"], context_id=context)):
            place.until_uses(2)
        place.until_uses(1)
        place.client.post(f"{place.url}/contexts/{context}/interrupt", json={})
        running.result()
    assert place.run(["out", "y"], context_id=context).execution == 2


def test_there_is_no_context_where_nothing_would_bound_its_processor_time(place: Place) -> None:
    place = Place(place.door, place.client, place.runtime, cpu_ms=1000)
    response = place.client.post(f"{place.url}/contexts", json={})
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "policy_unenforceable"


def test_a_kernel_that_is_not_there_or_never_ready_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_kernel, "START_TIMEOUT_S", 0.2)
    programs = doubles.code_kernel.PROGRAMS
    monkeypatch.setitem(programs, "python3", programs["deaf"])
    response = place.client.post(f"{place.url}/contexts", json={})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    monkeypatch.delitem(programs, "python3")
    assert place.problem(["out", "x"]) == (404, "not_found")
    deadline = time.monotonic() + 10
    while place.guest.streams:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert place.client.get(f"{place.url}/contexts").json() == {"contexts": []}


def test_first_runs_that_come_together_share_the_sandboxs_own_context(place: Place) -> None:
    barrier = threading.Barrier(4)

    def run(_: int) -> str:
        barrier.wait()
        return place.run(["out", "x"]).context_id

    with ThreadPoolExecutor() as pool:
        assert len(set(pool.map(run, range(4)))) == 1
