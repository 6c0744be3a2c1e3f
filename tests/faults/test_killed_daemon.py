"""FI-01, FI-02, FI-12, FI-17: the daemon ends while calls run, by force or on request."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from faults.remains import Remains
from mas_sandbox.audit.verify import verify
from running_daemon import RunningDaemon, daemon

WAITING = "trap '' TERM; setsid sh -c 'sleep 81.5' & touch started; sleep 81.5"


@contextmanager
def calling(
    running: RunningDaemon, command: str, key: str | None = None, **fields: Any
) -> Iterator[list[Any]]:
    """A call that runs meanwhile, from the moment that its program does; its answer comes into
    the list, or the way in which the connection broke."""
    answers: list[Any] = []

    def call() -> None:
        try:
            body = {"tool": {"name": "bash", "args": {"command": command}}, **fields}
            answers.append(running.post("/v1/sandbox/execute", body, key=key))
        except OSError as error:
            answers.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield answers
    finally:
        thread.join(60)


def until_runs(remains: Remains, word: str) -> None:
    deadline = time.monotonic() + 10
    while not any(word in words for words in remains.processes().values()):
        assert time.monotonic() < deadline, f"nothing runs {word!r}"
        time.sleep(0.01)


def records(state: Path, kind: str) -> list[dict[str, Any]]:
    lines = (state / "audit.jsonl").read_text().splitlines()
    return [each for each in map(json.loads, lines) if each["kind"] == kind]


@pytest.mark.parametrize("runtime", ["jail", "gvisor"])
def test_FI_01_FI_02_kill_9_mid_call(tmp_path: Path, runtime: str) -> None:
    """No sandbox two seconds later, what is left goes with the next start, and the call is
    known as interrupted: it is not run again."""
    with Remains(tmp_path) as remains:
        with daemon(tmp_path, runtime=runtime) as running:
            remains.watch(running.process.pid)
            with calling(running, WAITING, tool_call_id="once") as answers:
                until_runs(remains, "sleep 81.5" if runtime == "jail" else "runsc-sandbox")
                while not records(tmp_path, "intent"):
                    time.sleep(0.01)
                running.process.send_signal(signal.SIGKILL)
                remains.gone(2.0, but=[running.process.pid])
            assert isinstance(answers[0], OSError)
        with daemon(tmp_path, runtime=runtime) as running:
            assert remains.things() == []  # gone before the interface is there
            assert running.execute("bash", {"command": "echo back"})["result"] == "back\n"
            remains.watch(running.process.pid)
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(20) == 0
        remains.settled(killed=False)
    found = verify(tmp_path / "audit.jsonl")
    assert (found.problems, found.interrupted, found.unfinished, found.calls) == ([], 1, 0, 2)
    (asked,) = [each for each in records(tmp_path, "intent") if each["trace"]]
    (ended,) = [
        each for each in records(tmp_path, "outcome") if each["call_id"] == asked["call_id"]
    ]
    assert (ended["status"], ended["code"]) == ("error", "interrupted")


def test_FI_01_a_key_is_interrupted_after_kill_9_and_runs_no_second_time(tmp_path: Path) -> None:
    body = {"tool": {"name": "bash", "args": {"command": WAITING}}}
    with Remains(tmp_path) as remains:
        with daemon(tmp_path) as running:
            remains.watch(running.process.pid)
            with calling(running, WAITING, key="once") as answers:
                until_runs(remains, "sleep 81.5")
                running.process.send_signal(signal.SIGKILL)
            assert isinstance(answers[0], OSError)
        with daemon(tmp_path) as running:
            for _ in range(2):
                status, told = running.post("/v1/sandbox/execute", body, key="once")
                assert (status, told["error"]["code"], told["replayed"]) == (
                    200,
                    "interrupted",
                    True,
                )
            status, told = running.post(
                "/v1/sandbox/execute", body | {"trace": {"run_id": "other"}}, key="once"
            )
            assert (status, told["error"]["code"]) == (409, "idempotency_conflict")
            remains.watch(running.process.pid)
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(20) == 0
        remains.settled(killed=False)
    (begun,) = records(tmp_path, "intent")
    assert begun["trace"] == {"idempotency_key": "once"}


def test_FI_17_sigterm_lets_calls_finish_and_takes_no_others(tmp_path: Path) -> None:
    with Remains(tmp_path) as remains, daemon(tmp_path, "-pool", "0") as running:
        remains.watch(running.process.pid)
        with calling(running, "sleep 1.31; echo finished") as answers:
            until_runs(remains, "sleep 1.31")
            running.process.send_signal(signal.SIGTERM)
            status, reply = until_refused(running)
            assert (status, reply["error"]["code"]) == (503, "overloaded")
            assert running.process.wait(15) == 0
        assert answers[0][0] == 200
        assert answers[0][1]["result"] == "finished\n"
        remains.settled(killed=False)
    assert verify(tmp_path / "audit.jsonl").unfinished == 0


def test_FI_17_one_that_says_it_is_ready_hears_the_signal(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from mas_sandbox.server.http import serve\n"
        "from mas_sandbox.server.main import main\n"
        "say = serve._say\n"
        "def heard(text):\n"
        "    say(text)\n"
        "    if text.startswith('ready'):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "serve._say = heard\n"
        "main(sys.argv[1:])\n"
    )
    asked = ["-state-dir", str(tmp_path), "-listen", "127.0.0.1:0", "-runtime", "local"]
    ended = subprocess.run(
        [sys.executable, "-c", program, *asked], capture_output=True, timeout=30, check=False
    )
    assert (ended.returncode, b"shutting down" in ended.stderr) == (0, True), ended.stderr


def test_FI_17_what_takes_longer_than_the_grace_is_interrupted(tmp_path: Path) -> None:
    with Remains(tmp_path) as remains, daemon(tmp_path, "-drain-timeout", "0.5") as running:
        remains.watch(running.process.pid)
        with calling(running, WAITING) as answers:
            until_runs(remains, "sleep 81.5")
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(15) == 0
        status, reply = answers[0]
        assert (status, reply["error"]["code"]) == (200, "interrupted")
        remains.settled(killed=False)
    found = verify(tmp_path / "audit.jsonl")
    assert (found.problems, found.interrupted, found.unfinished) == ([], 1, 0)


def test_FI_17_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with Remains(tmp_path) as remains, daemon(tmp_path, "-drain-timeout", "60") as running:
        remains.watch(running.process.pid)
        with calling(running, WAITING) as answers:
            until_runs(remains, "sleep 81.5")
            running.process.send_signal(signal.SIGTERM)
            until_refused(running)
            running.process.send_signal(signal.SIGTERM)
            running.process.wait(10)
        with suppress(TypeError):  # it may not have come to an answer
            assert answers[0][1]["error"]["code"] == "interrupted"
        remains.settled(killed=True)
    with daemon(tmp_path):
        found = verify(tmp_path / "audit.jsonl")
    assert (found.problems, found.interrupted, found.unfinished) == ([], 1, 0)


def until_refused(running: RunningDaemon) -> tuple[int, dict[str, Any]]:
    deadline = time.monotonic() + 10
    while True:
        body = {"tool": {"name": "calculator", "args": {"expression": "1"}}}
        status, reply = running.post("/v1/sandbox/execute", body)
        if status != 200:
            return status, reply
        assert time.monotonic() < deadline, "it still takes calls"


def test_FI_12_many_calls_of_every_end_leave_the_host_as_it_was(tmp_path: Path) -> None:
    with Remains(tmp_path) as remains, daemon(tmp_path, "-max-concurrent", "4") as running:
        remains.watch(running.process.pid)
        named = running.post("/v1/sandbox/create", {})[1]["sandbox_id"]
        for number in range(6):
            running.execute("calculator", {"expression": f"{number} + 1"})
            running.execute("bash", {"command": "exit 3"})
            running.execute("bash", {"command": "kill -9 $$"}, sandbox_id=named)
            running.execute("bash", {"command": "sleep 9"}, policy={"timeout_ms": 100})
            running.execute("bash", {"command": "yes"}, policy={"output_bytes": 5000})
            running.execute("python", {"code": "x = 'x' * (10 << 30)"})
            running.execute("http_request", {"url": "http://127.0.0.1"})
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(20) == 0
        remains.settled(killed=False)
