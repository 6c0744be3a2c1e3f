"""FI-12: anything is killed at any moment while calls run: each call gets its own answer or a
typed error, and nothing is left.

FAULT_ROUNDS=100 is the whole number; FAULT_SEED=N does one of them again.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from faults.dice import dice, seeds
from faults.remains import Remains, descendants
from mas_sandbox.audit.verify import verify
from running_daemon import RunningDaemon, daemon

CALLS = 3
TIMEOUT_MS = 4000
TYPED = {"guest_lost", "sandbox_crash", "guest_protocol_error", "interrupted", "timeout"}
"""`timeout`: gVisor does not notice that somebody else has killed an address space of its."""
GONE = (OSError, HTTPException)
"""What a daemon's end looks like, before its answer or in the middle of one."""
FEW = {"jail": 6, "gvisor": 2, "microvm": 2}
REACH_S = {"jail": 0.4, "gvisor": 1.0, "microvm": 0.7}
"""Within which a call is over."""


def ask(running: RunningDaemon, number: int, answers: dict[int, Any]) -> None:
    tool = {"name": "bash", "args": {"command": f"sleep 0.2; echo {number}"}}
    try:
        body = {"tool": tool, "policy": {"timeout_ms": TIMEOUT_MS}}
        answers[number] = running.post("/v1/sandbox/execute", body)
    except GONE as error:
        answers[number] = error


def one(running: RunningDaemon, chosen: random.Random, reach_s: float) -> bool:
    """Calls, and something that is killed meanwhile: whether it was the daemon."""
    answers: dict[int, Any] = {}
    numbers = [chosen.randrange(1 << 30) for _ in range(CALLS)]
    asking = [threading.Thread(target=ask, args=(running, each, answers)) for each in numbers]
    for each in asking:
        each.start()
    time.sleep(chosen.uniform(0, reach_s))
    parts = sorted(descendants(running.process.pid))
    victim = running.process.pid if chosen.random() < 0.3 or not parts else chosen.choice(parts)
    with suppress(ProcessLookupError):  # it was quicker
        os.kill(victim, signal.SIGKILL)
    for each in asking:
        each.join(60)
    for number in numbers:
        look_at(answers[number], number, is_gone=victim == running.process.pid)
    return victim == running.process.pid


def look_at(answer: Any, number: int, *, is_gone: bool) -> None:
    if isinstance(answer, GONE):
        assert is_gone, answer
        return
    status, reply = answer
    assert status == 200, reply
    if reply["status"] == "ok" and reply["exit_code"] == 0:
        assert reply["result"] == f"{number}\n"  # at most its `sleep` was killed
    elif reply["status"] == "ok":
        assert reply["exit_code"] == 128 + signal.SIGKILL
    else:
        assert reply["error"]["code"] in TYPED, reply
        assert reply["exit_code"] != 0


@pytest.fixture
def state(request: pytest.FixtureRequest, tmp_path: Path, templates: Path) -> Iterator[Path]:
    """Machines are cloned from the template that other tests have made."""
    if request.param != "microvm":
        yield tmp_path
        return
    place = tmp_path / "microvm"
    place.symlink_to(templates / "microvm")
    yield tmp_path


@pytest.mark.parametrize(("name", "state"), [(each, each) for each in FEW], indirect=["state"])
def test_FI_12_anything_killed_at_any_moment(name: str, state: Path) -> None:
    left = seeds(FEW[name])
    with Remains(state) as remains:
        while left:
            with daemon(state, "-pool", "0", runtime=name) as running:
                remains.watch(running.process.pid)
                running.execute("bash", {"command": "true"})
                while left:
                    seed = left.pop()
                    try:
                        if one(running, dice(seed), REACH_S[name]):
                            break
                        remains.gone(2.0, but=[running.process.pid])
                        until_idle(remains)
                    except AssertionError as error:
                        raise AssertionError(f"FAULT_SEED={seed}") from error
                else:
                    running.process.send_signal(signal.SIGTERM)
                running.process.wait(20)
                remains.settled(killed=True)
    with daemon(state, runtime="local"):
        found = verify(state / "audit.jsonl")
    assert (found.problems, found.unfinished) == ([], 0)


def until_idle(remains: Remains) -> None:
    """Nothing is there but what a daemon has that does nothing: its locks."""
    deadline = time.monotonic() + 2
    while left := [each for each in remains.things() if not each.endswith(".lock")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
