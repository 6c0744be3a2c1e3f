"""Processes over a real connection: the same events as NDJSON, SSE and over WebSocket."""

from __future__ import annotations

import json
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from doubles.http_door import Door, http_door
from doubles.live_runtime import LiveGuest, LiveRuntime
from mas_sandbox.api.live import ProcessEvent, ProcessInfo, ProcessList
from mas_sandbox.server.http import sockets
from mas_sandbox.server.live.ring import CAPACITY

NDJSON = {"accept": "application/x-ndjson"}
SSE = {"accept": "text/event-stream"}
TOKEN = "t" * 32


class Place:
    """A sandbox, over HTTP."""

    def __init__(self, door: Door, client: httpx2.Client, runtime: LiveRuntime) -> None:
        self.door = door
        self.client = client
        self.id = client.post("/v1/sandbox/create", json={}).json()["sandbox_id"]
        self.guest: LiveGuest = runtime.guests[-1]
        self.url = f"/v1/sandboxes/{self.id}/processes"

    def start(self, *argv: str, **body: Any) -> dict[str, Any]:
        response = self.client.post(self.url, json={"argv": argv, **body})
        assert response.status_code == 200, response.text
        return ProcessInfo.model_validate_json(response.content).model_dump()

    def get(self, process: object) -> dict[str, Any]:
        info: dict[str, Any] = self.client.get(f"{self.url}/{process}").json()
        return info

    def socket(self, path: str, **options: Any) -> ClientConnection:
        options.setdefault("additional_headers", {"authorization": f"Bearer {TOKEN}"})
        return connect(f"ws://127.0.0.1:{self.door.port}{path}", compression=None, **options)

    def until(self, process: object, **wanted: Any) -> dict[str, Any]:
        deadline = time.monotonic() + 10
        while not wanted.items() <= (info := self.get(process)).items():
            assert time.monotonic() < deadline, info
            time.sleep(0.02)
        return info


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    runtime = LiveRuntime()
    with http_door(tmp_path, runtime, token=TOKEN) as door:
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx2.Client(base_url=door.url, timeout=15, headers=headers) as client:
            yield Place(door, client, runtime)


def checked(lines: Iterator[str]) -> list[dict[str, Any]]:
    """Events, each held to its model."""
    found = []
    for line in lines:
        ProcessEvent.model_validate_json(line)
        found.append(json.loads(line))
    return found


def text(events: list[dict[str, Any]]) -> bytes:
    return b"".join(b64decode(event["data"]) for event in events if "data" in event)


def received(socket: ClientConnection) -> list[dict[str, Any]]:
    events = []
    try:
        while True:
            events.append(json.loads(socket.recv(10)))
    except ConnectionClosed:
        return events


def test_a_process_is_told_of_as_it_happens_in_the_same_words_everywhere(place: Place) -> None:
    body = {"cmd": "both", "tag": "t"}
    with place.client.stream("POST", place.url, json=body, headers=NDJSON) as response:
        assert response.headers["content-type"].startswith("application/x-ndjson")
        lines = checked(response.iter_lines())
    with place.client.stream("POST", place.url, json=body, headers=SSE) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        sent = "".join(response.iter_text()).split("\n\n")
    fields = [dict(line.split(": ", 1) for line in event.split("\n")) for event in sent if event]
    with place.socket(f"{place.url}/ws") as socket:
        socket.send(json.dumps(body))
        over_socket = received(socket)
    assert [event["type"] for event in lines] == ["start", "stdout", "stderr", "exit"]
    assert lines[-1] == {"type": "exit", "exit_code": 3, "signal": None, "error": None}
    assert [event["event"] for event in fields] == [event["type"] for event in lines]
    assert [event.get("id") for event in fields] == [None, "3", "6", None]
    others = [json.loads(event["data"]) for event in fields], over_socket
    for events in others:
        assert [event | {"pid": 0} for event in events] == [event | {"pid": 0} for event in lines]


def test_a_detached_start_answers_at_once_and_it_is_attached_to_later(place: Place) -> None:
    info = place.start("cat", tag="kitty", env={"A": "1"}, cwd="/workspace/x")
    assert (info["state"], info["tag"], info["cwd"]) == ("running", "kitty", "/workspace/x")
    assert place.guest.started[0].env == {"A": "1"}
    url = f"{place.url}/kitty"
    sent = place.client.post(f"{url}/stdin", json={"data": b64encode(b"one").decode()})
    assert sent.status_code == 200
    raw = {"content-type": "application/octet-stream"}
    place.client.post(f"{url}/stdin?eof=true", content=b"two", headers=raw)
    with place.client.stream("GET", f"{url}/events?from=1") as response:
        events = checked(response.iter_lines())
    assert text(events) == b"netwo"
    with place.client.stream("GET", f"{url}/events", headers=SSE | {"last-event-id": "4"}) as again:
        assert b64encode(b"wo").decode() in "".join(again.iter_text())
    listed = ProcessList.model_validate_json(place.client.get(place.url).content)
    assert [(each.pid, each.state, each.exit_code) for each in listed.processes] == [
        (info["pid"], "exited", 0)
    ]


def test_waiting_answers_when_it_has_ended_or_when_the_time_is_up(place: Place) -> None:
    ended = place.client.post(f"{place.url}?wait=true", json={"argv": ["both"]}).json()
    assert (ended["state"], ended["exit_code"]) == ("exited", 3)
    info = place.start("sleep")
    url = f"{place.url}/{info['pid']}"
    assert place.client.post(f"{url}/wait", json={"timeout_ms": 30}).json()["state"] == "running"
    place.client.post(f"{url}/signal", json={"signal": "SIGTERM"})
    ended = place.client.post(f"{url}/wait", json={}).json()
    assert (ended["exit_code"], ended["signal"]) == (143, 15)


def test_a_terminal_is_resized_and_only_a_terminal(place: Place) -> None:
    info = place.start("cat", pty={"rows": 24, "cols": 80})
    assert place.guest.started[0].pty == (24, 80)
    size = {"rows": 50, "cols": 132}
    assert place.client.post(f"{place.url}/{info['pid']}/resize", json=size).status_code == 200
    place.client.delete(f"{place.url}/{info['pid']}")
    plain = place.start("cat")["pid"]
    assert place.client.post(f"{place.url}/{plain}/resize", json=size).status_code == 400


def test_killing_ends_it_and_it_stays_listed(place: Place) -> None:
    info = place.start("deaf")
    ended = place.client.delete(f"{place.url}/{info['pid']}").json()
    assert (ended["state"], ended["exit_code"], ended["signal"]) == ("exited", 137, 9)
    assert place.get(info["pid"])["state"] == "exited"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "invalid_request"),
        ({"argv": ["a"], "cmd": "b"}, 400, "invalid_request"),
        ({"argv": ["a\0"]}, 400, "invalid_request"),
        ({"argv": ["cat"], "env": {"A=B": "1"}}, 400, "invalid_request"),
        ({"argv": ["cat"], "tag": "12"}, 400, "invalid_request"),
        ({"argv": ["cat"], "pty": {"rows": 0, "cols": 1}}, 400, "invalid_request"),
        ({"argv": ["cat"], "timeout": 5}, 400, "invalid_request"),
        ({"argv": ["nonsuch"]}, 404, "not_found"),
    ],
)
def test_what_cannot_be_started_is_a_problem(
    place: Place, body: dict[str, Any], status: int, code: str
) -> None:
    for headers in ({}, NDJSON):
        response = place.client.post(place.url, json=body, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)


def test_input_that_is_not_base64_is_refused_whole(place: Place) -> None:
    info = place.start("cat")
    response = place.client.post(f"{place.url}/{info['pid']}/stdin", json={"data": "aGk=!!"})
    assert response.status_code == 400
    assert place.get(info["pid"])["output_to"] == 0


@pytest.mark.parametrize(("asked", "state"), [("detach", "running"), ("cancel", "exited")])
def test_a_client_that_leaves_detaches_or_cancels_as_it_asked(
    place: Place, asked: str, state: str
) -> None:
    body = {"argv": ["cat"], "on_disconnect": asked}
    with place.client.stream("POST", place.url, json=body, headers=NDJSON) as response:
        pid = json.loads(next(response.iter_lines()))["pid"]
    with place.socket(f"{place.url}/ws") as socket:
        socket.send(json.dumps(body))
        other = json.loads(socket.recv(10))["pid"]
    if state == "running":
        time.sleep(0.2)
    for each in (pid, other):
        place.until(each, state=state)


def test_a_reader_that_stops_reading_costs_the_daemon_no_more_than_a_ring(place: Place) -> None:
    size = 64 * CAPACITY
    body = {"argv": ["flood", str(size)]}
    with place.client.stream("POST", place.url, json=body, headers=NDJSON) as response:
        lines = response.iter_lines()
        pid = json.loads(next(lines))["pid"]
        time.sleep(0.5)
        info = place.get(pid)
        assert info["state"] == "running"
        assert info["output_to"] - info["output_from"] < 2 * CAPACITY
        assert info["output_to"] < 32 * CAPACITY
        assert len(text([json.loads(line) for line in lines])) == size
    assert place.get(pid)["exit_code"] == 0


def test_a_socket_carries_input_signals_and_sizes(place: Place) -> None:
    with place.socket(f"{place.url}/ws") as socket:
        socket.send(json.dumps({"argv": ["cat"], "pty": {}}))
        start = json.loads(socket.recv(10))
        socket.send(json.dumps({"type": "stdin", "data": b64encode(b"text ").decode()}))
        socket.send(b"and bytes")
        socket.send(json.dumps({"type": "resize", "rows": 5, "cols": 6}))
        running = next(iter(place.guest.streams.values()))
        socket.send(json.dumps({"type": "eof"}))
        events = received(socket)
    assert text(events) == b"text and bytes"
    assert {event["type"] for event in events} == {"pty", "exit"}
    assert running.size == (5, 6)
    with place.socket(f"{place.url}/{start['pid']}/ws?from=5") as socket:
        assert text(received(socket)) == b"and bytes"
    info = place.start("sleep")
    with place.socket(f"{place.url}/{info['pid']}/ws") as socket:
        socket.send(json.dumps({"type": "signal", "signal": "SIGINT"}))
        assert received(socket)[-1]["signal"] == 2
    info = place.start("deaf")
    with place.socket(f"{place.url}/{info['pid']}/ws") as socket:
        socket.send(json.dumps({"type": "kill"}))
        assert received(socket)[-1]["signal"] == 9


@pytest.mark.parametrize(
    "message", ["", "{", '{"type": "dance"}', '{"type": "eof", "more": 1}', '{"type":"eof"}' * 2]
)
def test_a_message_that_makes_no_sense_closes_the_socket_not_the_process(
    place: Place, message: str
) -> None:
    info = place.start("cat")
    with place.socket(f"{place.url}/{info['pid']}/ws") as socket:
        socket.recv(10)
        socket.send(message)
        last = received(socket)[-1]
        assert socket.close_code == 1008
    assert (last["type"], last["error"]["code"]) == ("error", "invalid_request")
    assert place.get(info["pid"])["state"] == "running"


def test_input_after_the_end_of_input_is_told_of_and_the_output_goes_on(place: Place) -> None:
    with place.socket(f"{place.url}/ws") as socket:
        socket.send(json.dumps({"argv": ["sleep"]}))
        for message in ('{"type":"eof"}', b"late", '{"type":"signal","signal":15}'):
            socket.send(message)
        events = received(socket)
    assert [event["type"] for event in events] == ["start", "error", "exit"]


@pytest.mark.parametrize(
    ("first", "code"),
    [("{}", "invalid_request"), ('{"argv":["nonsuch"]}', "not_found"), (b"\0", "invalid_request")],
)
def test_a_start_over_a_socket_that_fails_says_why(
    place: Place, first: str | bytes, code: str
) -> None:
    with place.socket(f"{place.url}/ws") as socket:
        socket.send(first)
        assert received(socket)[-1]["error"]["code"] == code
        assert socket.close_code == 1008


def test_a_socket_that_asks_for_nothing_is_closed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "FIRST_MESSAGE_S", 0.05)
    with place.socket(f"{place.url}/ws") as socket:
        assert "no first message" in received(socket)[-1]["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": f"Bearer {TOKEN}", "origin": "https://evil.example"}, 403),
        ({"authorization": f"Bearer {TOKEN}", "host": "evil.example"}, 403),
    ],
)
def test_a_handshake_passes_the_same_layers_as_any_request(
    place: Place, headers: dict[str, str], status: int
) -> None:
    head = [f"GET {place.url}/ws HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade"]
    head += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    head += [f"{name}: {value}" for name, value in ({"host": "localhost"} | headers).items()]
    answer = place.door.send("\r\n".join([*head, "", ""]).encode())
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "policy_denied"


@pytest.mark.parametrize("path", ["processes/ws", "processes/1/ws", "files/watch/ws?path=/x"])
def test_a_socket_to_a_sandbox_of_nobodys_is_a_404(place: Place, path: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        place.socket(f"/v1/sandboxes/sb_nonsuch/{path}")
    assert caught.value.response.status_code == 404
    assert json.loads(caught.value.response.body)["error"]["code"] == "not_found"


def test_a_message_over_the_bound_closes_the_socket(place: Place) -> None:
    info = place.start("cat")
    with place.socket(f"{place.url}/{info['pid']}/ws") as socket:
        socket.send(b"x" * (300 * 1024))
        received(socket)
        assert socket.close_code == 1009
    assert place.get(info["pid"])["state"] == "running"


def test_streams_and_sockets_end_with_the_daemon(tmp_path: Path) -> None:
    runtime = LiveRuntime()
    with http_door(tmp_path, runtime) as door, httpx2.Client(base_url=door.url) as client:
        place = Place(door, client, runtime)
        info = place.start("cat")
        stack = ExitStack()
        socket = stack.enter_context(place.socket(f"{place.url}/{info['pid']}/ws"))
        json.loads(socket.recv(10))
        began = time.monotonic()
    with stack:
        received(socket)
    assert time.monotonic() - began < 10


def test_the_reference_shows_all_of_it(place: Place) -> None:
    document = place.client.get("/openapi.json").json()
    shown = document["paths"]["/v1/sandboxes/{sandbox_id}/processes"]["post"]
    content = shown["responses"]["200"]["content"]
    assert {"application/x-ndjson", "text/event-stream", "application/json"} <= set(content)
    assert "ProcessEvent" in document["components"]["schemas"]
    assert place.client.get("/docs").status_code == 200
