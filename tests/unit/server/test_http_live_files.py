"""Files over a real connection: streamed both ways, whole or not at all."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from doubles.http_door import Door, http_door, read_all
from doubles.live_runtime import LiveGuest, LiveRuntime
from mas_sandbox.api.live import Entry, FileEvent
from mas_sandbox.server.http import uploads
from mas_sandbox.server.live import files as files_module
from mas_sandbox.wire import strict_json

TOKEN = "t" * 32
MIB = 1024 * 1024


class Place:
    """A sandbox, over HTTP."""

    def __init__(self, door: Door, client: httpx2.Client, runtime: LiveRuntime) -> None:
        self.door = door
        self.client = client
        self.id = client.post("/v1/sandbox/create", json={}).json()["sandbox_id"]
        self.guest: LiveGuest = runtime.guests[-1]
        self.url = f"/v1/sandboxes/{self.id}/files"

    def get(self, path: str, what: str = "", **options: Any) -> httpx2.Response:
        return self.client.get(f"{self.url}{what}", params={"path": path}, **options)

    def put(self, path: str, content: Any, what: str = "", **options: Any) -> httpx2.Response:
        params = {"path": path} | options.pop("params", {})
        return self.client.put(f"{self.url}{what}", params=params, content=content, **options)

    def quiet(self) -> None:
        """Wait until nothing runs in the sandbox."""
        deadline = time.monotonic() + 10
        while self.guest.streams:
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    runtime = LiveRuntime()
    with http_door(tmp_path, runtime, token=TOKEN) as door:
        headers = {"authorization": f"Bearer {TOKEN}"}
        with httpx2.Client(base_url=door.url, timeout=15, headers=headers) as client:
            yield Place(door, client, runtime)


def problem(response: httpx2.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"].get("reason", "")


def test_what_is_written_is_read_back(place: Place) -> None:
    content = os.urandom(3 * MIB)
    written = place.put("/workspace/a b", content, params={"mode": "0755"})
    assert Entry.model_validate_json(written.content).size == len(content)
    assert place.guest.calls[-1].args["mode"] == 0o755
    response = place.get("/workspace/a b")
    assert response.content == content
    assert response.headers["content-length"] == str(len(content))
    assert response.headers["content-disposition"] == "attachment; filename*=UTF-8''a%20b"
    assert response.headers["content-type"] == "application/octet-stream"
    assert "sandbox" in response.headers["content-security-policy"]


def test_a_range_is_read_alone(place: Place) -> None:
    place.guest.files["/workspace/f"] = b"0123456789"
    response = place.get("/workspace/f", headers={"range": "bytes=2-4"})
    assert (response.status_code, response.content) == (206, b"234")
    assert response.headers["content-range"] == "bytes 2-4/10"
    assert place.guest.calls[-1].args == {"path": "/workspace/f", "offset": 2, "length": 3}
    beyond = place.get("/workspace/f", headers={"range": "bytes=10-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */10")


def test_a_download_is_one_decision_and_leaves_nothing_running(place: Place) -> None:
    place.guest.files["/workspace/f"] = b"0123456789"
    place.get("/workspace/f")
    place.quiet()
    kinds = [record["tool"] for record in place.door.bench.records("intent")]
    assert kinds == ["files"]
    assert [each["status"] for each in place.door.bench.records("outcome")] == ["ok"]


@pytest.mark.parametrize(
    ("method", "what", "path", "status", "reason"),
    [
        ("GET", "", "/workspace/none", 404, "not_found"),
        ("GET", "", "/workspace", 422, "is_a_directory"),
        ("GET", "/stat", "/workspace/none", 404, "not_found"),
        ("GET", "/archive", "/workspace/none", 404, "not_found"),
        ("GET", "/watch", "/workspace/none", 404, "not_found"),
        ("DELETE", "", "/workspace/none", 404, "not_found"),
        ("PUT", "", "/workspace/full", 507, "no_space"),
        ("GET", "", "", 400, ""),
        ("GET", "", "a\0b", 400, ""),
    ],
)
def test_a_failure_has_its_status_and_its_reason(
    place: Place, method: str, what: str, path: str, status: int, reason: str
) -> None:
    content = b"x" * MIB if method == "PUT" else None
    response = place.client.request(
        method, f"{place.url}{what}", params={"path": path}, content=content
    )
    assert problem(response) == (status, reason)


def test_directories_are_made_listed_moved_and_removed(place: Place) -> None:
    made = place.client.post(f"{place.url}/mkdir", json={"path": "/workspace/d"})
    assert made.json()["type"] == "directory"
    again = place.client.post(f"{place.url}/mkdir", json={"path": "/workspace/d"})
    assert problem(again) == (409, "exists")
    body = {"source": "/workspace/d", "destination": "/workspace/e"}
    assert place.client.post(f"{place.url}/move", json=body).json()["path"] == "/workspace/e"
    listed = place.get("/workspace", "/list").json()
    assert [each["path"] for each in listed["entries"]] == ["/workspace/e"]
    assert place.client.delete(place.url, params={"path": "/workspace/e"}).status_code == 200
    assert problem(place.get("/workspace/e", "/stat")) == (404, "not_found")


def test_many_are_written_at_once_and_each_is_answered_for(place: Place) -> None:
    files = [
        {"path": "/workspace/a", "text": "café"},
        {"path": "/workspace/full", "text": "x"},
        {"path": "/workspace/b", "data": b64encode(b"\0\xff").decode(), "mode": 0o600},
    ]
    answer = place.client.post(place.url, json={"files": files}).json()["files"]
    assert [bool(each["entry"]) for each in answer] == [True, False, True]
    assert answer[1]["error"]["reason"] == "no_space"
    assert place.guest.files["/workspace/a"] == "café".encode()
    assert place.guest.files["/workspace/b"] == b"\0\xff"


def test_archives_go_both_ways(place: Place) -> None:
    response = place.get("/workspace", "/archive")
    assert (response.content, response.headers["content-type"]) == (
        b"tar of /workspace",
        "application/x-tar",
    )
    content = os.urandom(MIB)
    assert place.put("/workspace", content, "/archive").json() == {"entries": 1, "bytes": MIB}


def test_an_upload_that_breaks_off_leaves_what_was_there(place: Place) -> None:
    place.guest.files["/workspace/f"] = b"old"
    head = f"PUT {place.url}?path=/workspace/f HTTP/1.1\r\nhost: localhost\r\n"
    head += f"authorization: Bearer {TOKEN}\r\ncontent-length: 100000\r\n\r\n"
    with place.door.connect() as connection:
        connection.sendall(head.encode() + b"new")
        deadline = time.monotonic() + 10
        while not place.guest.streams and time.monotonic() < deadline:
            time.sleep(0.01)
    place.quiet()
    assert place.guest.files["/workspace/f"] == b"old"
    deadline = time.monotonic() + 10
    while not place.door.bench.records("outcome") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert place.door.bench.records("outcome")[-1]["code"] == "interrupted"


def test_an_upload_that_trickles_is_ended(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads.Paced.__init__, "__defaults__", (0.3,))
    with http_door(place.door.bench.directory / "slow", LiveRuntime()) as door:
        with httpx2.Client(base_url=door.url) as client:
            made = client.post("/v1/sandbox/create", json={}).json()["sandbox_id"]
        head = f"PUT /v1/sandboxes/{made}/files?path=/f HTTP/1.1\r\nhost: localhost\r\n"
        with door.connect() as connection:
            connection.sendall(f"{head}content-length: 100000\r\n\r\n".encode())
            connection.settimeout(10)
            answer = connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 408"), answer
            assert b"connection: close" in answer.lower()
            connection.shutdown(socket.SHUT_WR)
            read_all(connection)


def test_an_upload_is_bounded_by_the_disk_of_the_policy(place: Place) -> None:
    body = {"policy": {"disk_mb": 1}}
    made = place.client.post("/v1/sandbox/create", json=body).json()["sandbox_id"]
    url = f"/v1/sandboxes/{made}/files?path=/workspace/f"
    assert place.client.put(url, content=bytes(MIB)).status_code == 200
    response = place.client.put(url, content=bytes(MIB + 1))
    assert problem(response) == (413, "too_large")


def test_an_answer_before_the_end_of_the_body_reaches_a_client_that_is_still_sending(
    place: Place,
) -> None:
    head = f"PUT {place.url}?path=/workspace/full HTTP/1.1\r\nhost: localhost\r\n"
    head += f"authorization: Bearer {TOKEN}\r\ncontent-length: {16 * MIB}\r\n\r\n"
    with place.door.connect() as connection:
        connection.sendall(head.encode() + bytes(65536))
        time.sleep(0.5)  # it has been answered
        connection.sendall(bytes(4 * MIB))
        answer = connection.recv(65536).lower()
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)
    assert answer.startswith(b"http/1.1 507"), answer
    assert b"connection: close" in answer


def test_a_hundred_mebibytes_go_through_flat_memory(place: Place) -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1600):
            sent += 65536
            yield bytes(65536)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    response = place.put("/workspace", body(), "/archive")
    assert response.json()["bytes"] == sent == 100 * MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 * 1024


def test_a_reader_that_leaves_ends_the_transfer(place: Place) -> None:
    place.guest.files["/workspace/f"] = bytes(32 * MIB)
    with place.client.stream("GET", place.url, params={"path": "/workspace/f"}) as response:
        next(response.iter_bytes())
    place.quiet()


def test_transfers_of_one_sandbox_are_bounded(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "MAX_TRANSFERS", 1)
    params = {"path": "/workspace"}
    with place.client.stream("GET", f"{place.url}/watch", params=params) as response:
        lines = response.iter_lines()
        next(lines)
        assert place.get("/workspace", "/archive").status_code == 429
    place.quiet()
    assert place.get("/workspace", "/archive").status_code == 200


def test_changes_are_told_as_they_happen(place: Place) -> None:
    params = {"path": "/workspace", "recursive": "true"}
    changes = [
        {"event": "created", "path": "/workspace/a"},
        {"event": "moved", "path": "/workspace/a", "to": "/workspace/b"},
        {"event": "overflow", "path": "/workspace"},
    ]
    with place.client.stream("GET", f"{place.url}/watch", params=params) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines)) == {"type": "start", "path": "/workspace"}
        for change in changes:
            _tell(place, strict_json.dumps(change) + b"\n")
            told = FileEvent.model_validate_json(next(lines)).model_dump(exclude_none=True)
            assert told == {"type": change["event"]} | {
                name: value for name, value in change.items() if name != "event"
            }
    place.quiet()


@pytest.mark.parametrize(
    "line", [b"{}\n", b"[1]\n", b"x" * 70_000, b'{"event":"sing","path":""}\n']
)
def test_a_watch_that_talks_nonsense_ends_with_an_error(place: Place, line: bytes) -> None:
    with place.client.stream(
        "GET", f"{place.url}/watch", params={"path": "/workspace"}
    ) as response:
        lines = response.iter_lines()
        next(lines)
        _tell(place, line)
        rest = [json.loads(each) for each in lines]
    assert [each["error"]["code"] for each in rest] == ["guest_protocol_error"]


def _tell(place: Place, line: bytes) -> None:
    watch = place.guest.watches[-1]
    asyncio.run_coroutine_threadsafe(watch.write(line), place.door.loop).result(10)


def test_a_signed_url_reads_or_writes_one_file_without_a_token(place: Place) -> None:
    place.guest.files["/workspace/f"] = b"content"
    with httpx2.Client(base_url=place.door.url) as nobody:
        urls = {}
        for method in ("GET", "PUT"):
            body = {"path": "/workspace/f", "method": method, "expires_s": 60}
            signed = place.client.post(f"{place.url}/sign", json=body).json()
            assert 0 < signed["expires"] - time.time() <= 60
            urls[method] = signed["url"]
        assert nobody.get(urls["GET"]).content == b"content"
        assert nobody.put(urls["PUT"], content=b"new").status_code == 200
        assert place.guest.files["/workspace/f"] == b"new"
        assert nobody.put(urls["GET"], content=b"bad").status_code == 401
        assert nobody.get(urls["PUT"]).status_code == 401
        assert nobody.get(urls["GET"] + "&recursive=1").status_code == 401
        assert nobody.get(urls["GET"].replace("%2Ff", "%2Fg")).status_code == 401
        assert nobody.get(f"{place.url}?path=/workspace/f").status_code == 401
        place.client.post("/v1/sandbox/destroy", json={"sandbox_id": place.id})
        assert nobody.get(urls["GET"]).status_code == 404


def test_someone_elses_sandbox_is_not_found(place: Place) -> None:
    foreign = place.client.get("/v1/sandboxes/sb_nonsuch/files/stat", params={"path": "/x"})
    assert foreign.status_code == 404
    sign = {"path": "/x"}
    assert place.client.post("/v1/sandboxes/sb_nonsuch/files/sign", json=sign).status_code == 404
