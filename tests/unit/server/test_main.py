"""The daemon as a process: start-up, words, signals, what is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from mas_sandbox.audit.verify import verify

DAEMON = [sys.executable, "-m", "mas_sandbox.server.main"]
CALL = b'{"id":1,"tool":"calculator","args":{"expression":"15*8+7"}}\n'


def daemon(
    *flags: str, given: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*DAEMON, *flags],
        input=given,
        capture_output=True,
        timeout=300,  # a probe attacks every wall, once for each boot of the host
        env={**os.environ, **environment},
        check=False,
    )


def test_a_call_on_stdin_is_answered_on_stdout(tmp_path: Path) -> None:
    ended = daemon("-runtime", "local", given=CALL)
    assert ended.returncode == 0
    (line,) = ended.stdout.splitlines()
    assert json.loads(line)["result"] == 127
    assert b"WARNING: runtime local isolates nothing" in ended.stderr
    log = verify(tmp_path / "state" / "audit.jsonl")
    assert log.problems == []


def test_flags_take_one_dash_or_two() -> None:
    for dashes in ("-", "--"):
        assert daemon(f"{dashes}version").stdout.startswith(b"mas-sandboxd ")
        assert b"examples:" in daemon(f"{dashes}help").stdout


@pytest.mark.parametrize(
    ("flags", "words", "status"),
    [
        (["-nonsense"], "-nonsense", 2),
        (["-max-concurrent", "0"], "1 or more", 2),
        (["-log-level", "loud"], "loud", 2),
        (["-runtime", "chroot"], "there is no runtime 'chroot'", 1),
        (["-runtime", "local", "-listen", "8080"], "127.0.0.1:8080", 1),
        (["-runtime", "local", "-listen", "0.0.0.0:0"], "-auth-token", 1),
        (["-runtime", "local", "-policy", "/nowhere.yaml"], "/nowhere.yaml", 1),
        (["-runtime", "local", "-tools", "/nowhere.py"], "/nowhere.py", 1),
        (["-runtime", "local", "-state-dir", "/proc/nowhere"], "/proc/nowhere", 1),
        (["-runtime", "local", "-runtime-config", "x"], "-runtime-config", 1),
    ],
)
def test_a_wrong_start_is_one_worded_line(flags: list[str], words: str, status: int) -> None:
    ended = daemon(*flags)
    assert ended.returncode == status
    assert ended.stdout == b""
    (line,) = ended.stderr.decode().splitlines()
    assert line.startswith("mas-sandboxd: ")
    assert words in line


def test_a_closed_standard_input_is_worded() -> None:
    command = f"exec {sys.executable} -m mas_sandbox.server.main -runtime local <&-"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"mas-sandboxd: standard input or output is closed")


def test_an_operators_file_becomes_tools(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        'def shout(text: str) -> str:\n    """Say it louder."""\n    return text.upper()\n'
    )
    given = b'{"id":1,"tool":"shout","args":{"text":"hi"}}\n'
    ended = daemon("-runtime", "local", "-tools", str(path), given=given)
    assert json.loads(ended.stdout)["result"] == "HI"
    given = b'{"id":1,"tool":"describe_extensions","args":{}}\n'
    ended = daemon("-runtime", "local", "-tools", str(path), given=given)
    assert json.loads(ended.stdout)["error"]["code"] == "not_found"


def test_an_operators_file_that_is_wrong_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def shout(text):\n    return text\n")
    ended = daemon("-runtime", "local", "-tools", str(path), given=CALL)
    assert ended.returncode == 1
    assert b"mine.py" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_probing_says_what_each_runtime_enforces() -> None:
    document = json.loads(daemon("-probe").stdout)
    local = document["runtimes"]["local"]
    assert (local["available"], local["isolation"]) == (True, "none")
    assert local["controls"]["timeout"]["enforced"] is True
    assert {"kernel", "python", "uid"} <= document["host"].keys()


@pytest.mark.parametrize("given", [b"", CALL])
def test_lines_need_nothing_of_the_web(given: bytes, tmp_path: Path) -> None:
    look = (
        "import sys, atexit\n"
        "from mas_sandbox.server.main import main\n"
        "def look():\n"
        "    heavy = {'fastapi', 'starlette', 'uvicorn', 'httpx2', 'yaml', 'anyio', 'pydantic'}\n"
        "    heavy |= {'ssl'}\n"
        "    sys.stderr.write('imported: ' + ' '.join(sorted(heavy & set(sys.modules))))\n"
        "atexit.register(look)\n"
        "main(['-runtime', 'local'])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", look], input=given, capture_output=True, timeout=30, check=False
    )
    assert ended.stderr.endswith(b"imported: ")


def test_a_terminated_daemon_interrupts_and_leaves_nothing(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*DAEMON, "-runtime", "local"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.write(b'{"id":1,"tool":"bash","args":{"command":"sleep 987"}}\n')
    process.stdin.flush()
    log = tmp_path / "state" / "audit.jsonl"
    _until(lambda: log.exists() and b'"intent"' in log.read_bytes())
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=10)
    assert json.loads(said)["error"]["code"] == "interrupted"
    assert process.returncode == 128 + signal.SIGTERM
    assert b'"interrupted"' in log.read_bytes()
    assert verify(log).problems == []
    _until(lambda: not _running(b"sleep\x00987"))


def test_a_daemon_whose_answers_nobody_reads_still_ends() -> None:
    process = subprocess.Popen(
        [*DAEMON, "-runtime", "local"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    flood = b'{"id":1,"tool":"bash","args":{"command":"yes | head -c 900000"}}\n'
    process.stdin.write(flood)
    process.stdin.flush()
    assert process.stdout is not None
    assert process.stdout.read(1) == b"{"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    process.communicate()


class Http:
    """A daemon that listens, and the line that says where."""

    def __init__(self, *flags: str) -> None:
        self.process = subprocess.Popen(
            [*DAEMON, "-runtime", "local", "-listen", "127.0.0.1:0", *flags],
            stderr=subprocess.PIPE,
        )
        assert self.process.stderr is not None
        self.words = ""
        while "docs" not in self.words:
            line = self.process.stderr.readline().decode()
            assert line, self.words
            self.words += line
        place = next(line.split()[1] for line in self.words.splitlines() if "listening" in line)
        self.url = place
        self.port = int(place.rsplit(":", 1)[1])

    def post(self, tool: str, args: dict[str, object]) -> socket.socket:
        body = json.dumps({"tool": {"name": tool, "args": args}}).encode()
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(
            b"POST /v1/sandbox/execute HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            b"content-type: application/json\r\n" + b"content-length: %d\r\n\r\n" % len(body) + body
        )
        return connection

    def status(self) -> object:
        with urllib.request.urlopen(f"{self.url}/v1/sandbox/health", timeout=10) as reply:
            return json.load(reply)["status"]

    def end(self) -> int:
        self.process.kill()
        return self.process.wait()


def test_the_start_up_lines_say_all_that_matters() -> None:
    http = Http()
    try:
        for words in ("runtime    local (isolation: none)", "auth       none", "built-in default"):
            assert words in http.words
        assert http.status() == "ok"
    finally:
        http.end()


def test_sigterm_lets_a_call_finish(tmp_path: Path) -> None:
    http = Http()
    try:
        with http.post("bash", {"command": "sleep 0.7; echo done"}) as connection:
            _until(lambda: b'"intent"' in (tmp_path / "state" / "audit.jsonl").read_bytes())
            http.process.send_signal(signal.SIGTERM)
            assert b"done" in _read_all(connection)
        assert http.process.wait(10) == 0
    finally:
        http.end()


def test_a_second_sigterm_ends_at_once(tmp_path: Path) -> None:
    http = Http("-drain-timeout", "60")
    try:
        with http.post("bash", {"command": "sleep 60"}) as connection:
            _until(lambda: b'"intent"' in (tmp_path / "state" / "audit.jsonl").read_bytes())
            http.process.send_signal(signal.SIGTERM)
            _until(lambda: http.status() == "draining")
            http.process.send_signal(signal.SIGTERM)
            assert b"interrupted" in _read_all(connection)
        http.process.wait(3)
        assert verify(tmp_path / "state" / "audit.jsonl").problems == []
    finally:
        http.end()


def _read_all(connection: socket.socket) -> bytes:
    got = b""
    while part := connection.recv(65536):
        got += part
    return got


def _running(argument: bytes) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument in path.read_bytes():
                return True
        except OSError:
            continue
    return False


def _until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
