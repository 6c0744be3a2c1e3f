"""Processes and files of a real sandbox, through the daemon's real front door."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from running_daemon import TOKEN, daemon

NDJSON = {"accept": "application/x-ndjson"}
BEARER = {"authorization": f"Bearer {TOKEN}"}


class Place:
    """One sandbox of a running daemon."""

    def __init__(self, client: httpx2.Client) -> None:
        self.client = client
        response = client.post("/v1/sandbox/create", json={})
        assert response.status_code == 200, response.text
        self.id = response.json()["sandbox_id"]
        self.url = f"/v1/sandboxes/{self.id}"

    def run(self, cmd: str, **body: Any) -> tuple[bytes, bytes, dict[str, Any]]:
        """What a shell command writes to stdout and stderr, and its exit."""
        body |= {"cmd": cmd}
        with self.client.stream(
            "POST", f"{self.url}/processes", json=body, headers=NDJSON
        ) as response:
            assert response.status_code == 200, response.read()
            events = [json.loads(line) for line in response.iter_lines()]
        assert events[0]["type"] == "start", events
        return text(events, "stdout"), text(events, "stderr"), events[-1]

    def start(self, **body: Any) -> dict[str, Any]:
        response = self.client.post(f"{self.url}/processes", json=body)
        assert response.status_code == 200, response.text
        info: dict[str, Any] = response.json()
        return info


def text(events: list[dict[str, Any]], *kinds: str) -> bytes:
    return b"".join(b64decode(event["data"]) for event in events if event["type"] in kinds)


@pytest.fixture(scope="module", params=["local", "jail"])
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx2.Client]:
    state = tmp_path_factory.mktemp(request.param)
    with (
        daemon(state, runtime=request.param) as running,
        httpx2.Client(base_url=running.url, headers=BEARER, timeout=30) as made,
    ):
        yield made


@pytest.fixture
def place(client: httpx2.Client) -> Iterator[Place]:
    made = Place(client)
    yield made
    client.post("/v1/sandbox/destroy", json={"sandbox_id": made.id})


def test_a_shell_command_is_streamed(place: Place) -> None:
    out, error, end = place.run("echo out; echo err >&2; exit 3", env={"A": "1"})
    assert (out, error, end["exit_code"]) == (b"out\n", b"err\n", 3)
    assert place.run("echo $A-$0", env={"A": "1"})[0].startswith(b"1-")


BEAT = "while :; do date +%s%N > beat; sleep 0.05; done"


def beats(place: Place) -> bool:
    """Whether BEAT runs. (A process may not signal another one's, so not even ask.)"""
    first = place.run("cat beat; sleep 0.4")[0]
    return place.run("cat beat")[0] != first


def test_what_runs_in_the_background_lives_on_and_never_longer_than_the_sandbox(
    place: Place,
) -> None:
    assert place.run(f"({BEAT}) & sleep 0.3")[2]["exit_code"] == 0
    assert beats(place)


def test_a_process_is_attached_to_again(place: Place) -> None:
    info = place.start(cmd="echo one; read line; echo two $line", tag="t")
    url = f"{place.url}/processes/t"
    raw = {"content-type": "application/octet-stream"}
    assert place.client.post(f"{url}/stdin", content=b"hello\n", headers=raw).status_code == 200
    with place.client.stream("GET", f"{url}/events") as response:
        events = [json.loads(line) for line in response.iter_lines()]
    assert events[0]["pid"] == info["pid"]
    assert text(events, "stdout") == b"one\ntwo hello\n"


def test_a_terminal_is_one(place: Place) -> None:
    url = f"ws://{place.client.base_url.netloc.decode()}{place.url}/processes/ws"
    with connect(url, additional_headers=BEARER, compression=None) as socket:
        socket.send(json.dumps({"argv": ["sh", "-c", "stty size; cat"], "pty": {"rows": 33}}))
        events = [json.loads(socket.recv(10)), json.loads(socket.recv(10))]
        socket.send(b"\x03")
        try:
            while True:
                events.append(json.loads(socket.recv(10)))
        except ConnectionClosed:
            pass
    assert text(events, "pty").startswith(b"33 80\r\n")
    assert events[-1]["signal"] == 2


def test_killing_leaves_nothing(place: Place) -> None:
    info = place.start(cmd=f"({BEAT}) & wait")
    time.sleep(0.3)
    assert beats(place)
    killed = place.client.delete(f"{place.url}/processes/{info['pid']}").json()
    assert (killed["state"], killed["signal"]) == ("exited", 9)
    assert not beats(place)


def test_large_output_comes_whole(place: Place) -> None:
    out, _, _ = place.run("head -c 20000000 /dev/zero")
    assert len(out) == 20_000_000


def test_large_files_go_both_ways(place: Place) -> None:
    content = os.urandom(20_000_000)
    params = {"path": "/workspace/big"}
    written = place.client.put(f"{place.url}/files", params=params, content=content)
    assert written.json()["size"] == len(content), written.text
    digest = place.run("sha256sum < big")[0].split()[0].decode()
    assert digest == hashlib.sha256(content).hexdigest()
    assert place.client.get(f"{place.url}/files", params=params).content == content
    part = place.client.get(f"{place.url}/files", params=params, headers={"range": "bytes=5-9"})
    assert part.content == content[5:10]


@pytest.mark.parametrize(
    ("method", "what", "path", "status", "reason"),
    [
        ("GET", "", "/workspace/none", 404, "not_found"),
        ("GET", "", "/workspace/d", 422, "is_a_directory"),
        ("GET", "/list", "/workspace/f", 422, "not_a_directory"),
        ("PUT", "", "/workspace/d", 422, "is_a_directory"),
        ("PUT", "", "/workspace/f/x", 422, "not_a_directory"),
        ("DELETE", "", "/workspace/d", 409, "not_empty"),
    ],
)
def test_failures_are_typed(
    place: Place, method: str, what: str, path: str, status: int, reason: str
) -> None:
    place.run("mkdir d; touch f d/x")
    content = bytes(1_000_000) if method == "PUT" else None
    response = place.client.request(
        method, f"{place.url}/files{what}", params={"path": path}, content=content
    )
    error = response.json()["error"]
    assert (response.status_code, error.get("reason")) == (status, reason), error


def test_changes_are_told(place: Place) -> None:
    params = {"path": "/workspace", "recursive": "true"}
    with place.client.stream("GET", f"{place.url}/files/watch", params=params) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["type"] == "start"
        place.run("echo x > new")
        told = json.loads(next(lines))
    assert (told["type"], told["path"]) == ("created", "/workspace/new")


def test_archives_go_both_ways(place: Place) -> None:
    place.run("mkdir -p a/b; echo one > a/b/c; ln -s b a/l")
    packed = place.client.get(f"{place.url}/files/archive", params={"path": "/workspace/a"})
    with tarfile.open(fileobj=io.BytesIO(packed.content)) as archive:
        names = archive.getnames()
    assert {name.removeprefix("./").rstrip("/") for name in names} >= {"b", "b/c", "l"}
    place.run("mkdir z")
    params = {"path": "/workspace/z"}
    done = place.client.put(f"{place.url}/files/archive", params=params, content=packed.content)
    assert done.json()["entries"] == len(names), done.text
    assert place.run("cat z/l/c")[0] == b"one\n"


def test_a_daemon_that_ends_ends_its_streams_and_what_they_told_of(tmp_path: Path) -> None:
    with (
        daemon(tmp_path, runtime="local") as running,
        httpx2.Client(base_url=running.url, headers=BEARER, timeout=30) as client,
    ):
        place = Place(client)
        body = {"cmd": "echo $$; exec sleep 1000"}
        with client.stream("POST", f"{place.url}/processes", json=body, headers=NDJSON) as response:
            lines = response.iter_lines()
            next(lines)
            pid = int(b64decode(json.loads(next(lines))["data"]))
            assert Path(f"/proc/{pid}").exists()
            running.process.terminate()
            began = time.monotonic()
            with pytest.raises(httpx2.TransportError):
                next(lines)
            assert running.process.wait(10) == 0
        assert time.monotonic() - began < 5
        assert not Path(f"/proc/{pid}").exists()
    assert "Traceback" not in running.log.read_text()
