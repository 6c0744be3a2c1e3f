"""FI-01, FI-02, FI-12: the daemon is killed while calls run."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

import census
from mas_sandbox.audit.verify import verify
from running_daemon import RunningDaemon, daemon

pytestmark = pytest.mark.serial


def _wait_until(pattern: str, *, present: bool, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while any(pattern in command for command in census.commands().values()) != present:
        assert time.monotonic() < deadline, f"{pattern!r}: present should be {present}"
        time.sleep(0.02)


def _wait_for_no_more_than(before: census.Census, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while more := census.take().processes - before.processes:
        assert time.monotonic() < deadline, more
        time.sleep(0.02)


def test_FI_02_kill_9_mid_call_leaves_no_sandbox_after_two_seconds(tmp_path: Path) -> None:
    before = census.take()
    with daemon(tmp_path) as running:
        command = "setsid sh -c \"trap '' TERM; sleep 81.5\" & sleep 81.5"
        call = threading.Thread(target=_try, args=(running, command))
        call.start()
        _wait_until("sleep 81.5", present=True, within_s=10)
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
        _wait_until("sleep 81.5", present=False, within_s=2)
        _wait_for_no_more_than(before, within_s=2)
        call.join()
    after = census.take()
    assert after.processes == before.processes
    assert after.mounts == before.mounts
    # What a dead daemon cannot remove itself, the next one does.
    with daemon(tmp_path) as running:
        assert running.execute("bash", {"command": "echo back"})["result"] == "back\n"
        log = next(tmp_path.glob("**/*.jsonl"))
    assert census.take() == before
    verification = verify(log)
    assert verification.problems == []
    assert verification.interrupted == 1
    assert verification.unfinished == 0


def _try(running: RunningDaemon, command: str) -> None:
    with suppress(OSError):  # the daemon dies before it answers
        running.execute("bash", {"command": command})


def test_FI_17_sigterm_lets_a_running_call_finish(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        replies: list[dict[str, object]] = []
        call = threading.Thread(
            target=lambda: replies.append(
                running.execute("bash", {"command": "sleep 1.31; echo finished"})
            )
        )
        call.start()
        _wait_until("sleep 1.31", present=True, within_s=10)
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(15) == 0
        call.join()
    assert replies[0]["result"] == "finished\n"


def test_FI_12_many_calls_of_every_end_leave_the_host_as_it_was(tmp_path: Path) -> None:
    before = census.take()
    with daemon(tmp_path, "-max-concurrent", "4") as running:
        named = running.post("/v1/sandbox/create", {})[1]["sandbox_id"]
        for number in range(6):
            running.execute("calculator", {"expression": f"{number} + 1"})
            running.execute("bash", {"command": "exit 3"})
            running.execute("bash", {"command": "kill -9 $$"}, sandbox_id=named)
            running.execute("bash", {"command": "sleep 9"}, policy={"timeout_ms": 100})
            running.execute("bash", {"command": "yes"}, policy={"output_bytes": 5000})
            running.execute("python", {"code": "x = 'x' * (10 << 30)"})
            running.execute("http_request", {"url": "http://127.0.0.1"})
    assert census.take() == before
