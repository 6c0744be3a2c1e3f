"""Processes and files of a real sandbox, through the daemon's real front door."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from base64 import b64decode
from pathlib import Path

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from place import BEARER, NDJSON, Place, client_of, text
from published import check
from running_daemon import daemon


def test_a_shell_command_is_streamed(place: Place) -> None:
    out, error, end = place.run("echo out; echo err >&2; exit 3", env={"A": "1"})
    assert (out, error, end["exit_code"]) == (b"out\n", b"err\n", 3)
    assert place.run("echo $A-$0", env={"A": "1"})[0].startswith(b"1-")


BEATS_WITHIN_MS = 4000
BEAT = "while :; do echo beat >> {0}; sleep 0.05; done"


def beats(place: Place, file: str, within_ms: int = 30_000) -> bool:
    """Whether BEAT runs: by then the file grew. (A process may not signal another one's, so not
    even ask.)"""
    grown = f'seen=$(wc -l < {file}); until [ "$(wc -l < {file})" != "$seen" ]; do sleep 0.05; done'
    return bool(place.run(grown, timeout_ms=within_ms)[2]["exit_code"] == 0)


def test_what_runs_in_the_background_lives_on(place: Place) -> None:
    assert place.run(f"({BEAT.format('on')}) & while ! test -s on; do :; done")[2]["exit_code"] == 0
    assert beats(place, "on")


def test_a_process_is_attached_to_again(place: Place) -> None:
    info = place.start(cmd="echo one; read line; echo two $line", tag="t")
    url = f"{place.url}/processes/t"
    raw = {"content-type": "application/octet-stream"}
    assert place.client.post(f"{url}/stdin", content=b"hello\n", headers=raw).status_code == 200
    with place.client.stream("GET", f"{url}/events") as response:
        events = [json.loads(line) for line in response.iter_lines()]
    for event in events:
        check("processEvents", event)
    assert events[0]["pid"] == info["pid"]
    assert text(events, "stdout") == b"one\ntwo hello\n"


def test_a_terminal_is_one(place: Place) -> None:
    url = f"ws://{place.client.base_url.netloc.decode()}{place.url}/processes/ws"
    with connect(url, additional_headers=BEARER, compression=None) as socket:
        socket.send(json.dumps({"argv": ["sh", "-c", "stty size; exec cat"], "pty": {"rows": 33}}))
        events = [json.loads(socket.recv(10))]
        while b"33 80\r\n" not in text(events, "pty"):
            events.append(json.loads(socket.recv(10)))
        socket.send(b"typed\n")
        while text(events, "pty").count(b"typed\r\n") < 2:  # by the terminal, and by cat
            events.append(json.loads(socket.recv(10)))
        socket.send(b"\x03")
        try:
            while True:
                events.append(json.loads(socket.recv(10)))
        except ConnectionClosed:
            pass
    for event in events:
        check("startProcess", event)
    assert events[-1]["signal"] == 2


def test_killing_leaves_nothing(place: Place) -> None:
    info = place.start(cmd=f"({BEAT.format('off')}) & wait")
    place.run("while ! test -s off; do sleep 0.01; done")
    assert beats(place, "off")
    killed = place.client.delete(f"{place.url}/processes/{info['pid']}").json()
    assert (killed["state"], killed["signal"]) == ("exited", 9)
    assert not beats(place, "off", BEATS_WITHIN_MS)


def test_large_output_comes_whole(place: Place) -> None:
    out, _, _ = place.run("head -c 8000000 /dev/zero")
    assert len(out) == 8_000_000


def test_large_files_go_both_ways(place: Place) -> None:
    content = os.urandom(8_000_000)
    params = {"path": "/workspace/big"}
    written = place.client.put(f"{place.url}/files", params=params, content=content)
    assert written.json()["size"] == len(content), written.text
    digest = place.run("sha256sum < big")[0].split()[0].decode()
    assert digest == hashlib.sha256(content).hexdigest()
    assert place.client.get(f"{place.url}/files", params=params).content == content
    part = place.client.get(f"{place.url}/files", params=params, headers={"range": "bytes=5-9"})
    assert part.content == content[5:10]


FAILURES = [
    ("GET", "", "/workspace/none", 404, "not_found"),
    ("GET", "", "/workspace/fails/d", 422, "is_a_directory"),
    ("GET", "/list", "/workspace/fails/f", 422, "not_a_directory"),
    ("PUT", "", "/workspace/fails/d", 422, "is_a_directory"),
    ("PUT", "", "/workspace/fails/f/x", 422, "not_a_directory"),
    ("DELETE", "", "/workspace/fails/d", 409, "not_empty"),
    ("DELETE", "", "/workspace/none", 404, "not_found"),
]


def test_failures_are_typed(place: Place) -> None:
    place.run("mkdir -p fails/d; touch fails/f fails/d/x")
    for method, what, path, status, reason in FAILURES:
        content = bytes(1_000_000) if method == "PUT" else None
        response = place.client.request(
            method, f"{place.url}/files{what}", params={"path": path}, content=content
        )
        told = response.status_code, response.json()["error"].get("reason")
        assert told == (status, reason), (method, path, response.text)


def test_changes_are_told(place: Place) -> None:
    place.run("mkdir watched")
    params = {"path": "/workspace/watched", "recursive": "true"}
    with place.client.stream("GET", f"{place.url}/files/watch", params=params) as response:
        lines = response.iter_lines()
        begun = json.loads(next(lines))
        place.run("echo x > watched/new")
        told = json.loads(next(lines))
    for event in (begun, told):
        check("fileEvents", event)
    assert begun["type"] == "start"
    assert (told["type"], told["path"]) == ("created", "/workspace/watched/new")


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
        client_of(running) as client,
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
            last = json.loads(next(lines))
            assert (last["type"], last["error"]["code"]) == ("exit", "interrupted")
            assert list(lines) == []
            assert running.process.wait(10) == 0
        assert time.monotonic() - began < 5
        assert not Path(f"/proc/{pid}").exists()
    assert "Traceback" not in running.log.read_text()
