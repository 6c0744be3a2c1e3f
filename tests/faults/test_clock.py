"""FI-09: the clock of the day jumps; nothing that was promised by duration moves."""

from __future__ import annotations

import json
import os
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.test_killed_daemon import calling
from mas_sandbox.audit.verify import verify
from running_daemon import RunningDaemon, daemon

DAY_S = 86_400
_JUMPING = """
    # A host whose clock is off by as much as a file says: what gettimeofday(2) would tell.
    import os, time
    real, real_ns = time.time, time.time_ns
    def off():
        with open(os.environ["CLOCK_OFF_BY"]) as file:
            return int(file.read() or 0)
    time.time = lambda: real() + off()
    time.time_ns = lambda: real_ns() + off() * 10**9
"""


@pytest.fixture
def jump(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    place = tmp_path / "clock"
    place.mkdir()
    (place / "sitecustomize.py").write_text(textwrap.dedent(_JUMPING))
    file = place / "off"
    file.write_text("0")
    monkeypatch.setenv("PYTHONPATH", f"{place}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("CLOCK_OFF_BY", str(file))

    def jumped(seconds: int) -> None:
        new = place / "new"
        new.write_text(str(seconds))
        new.rename(file)

    return jumped


@pytest.fixture
def running(tmp_path: Path, jump: Callable[[int], None]) -> Iterator[RunningDaemon]:
    with daemon(tmp_path / "state") as started:
        yield started


def records(running: RunningDaemon) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (running.log.parent / "audit.jsonl").read_text().splitlines()
    ]


def test_FI_09_no_deadline_and_no_lifetime_moves_with_the_clock(
    running: RunningDaemon, jump: Callable[[int], None]
) -> None:
    status, made = running.post("/v1/sandboxes", {"timeout_s": 60, "idle_timeout_s": 60})
    assert status == 200, made
    name = made["sandbox_id"]
    for seconds in (DAY_S, -DAY_S, 3600, -3600, 0):  # a day each way; an hour, as DST has it
        command = "sleep 0.4; echo through"
        with calling(running, command, sandbox_id=name, policy={"timeout_ms": 20_000}) as whole:
            late: list[dict[str, Any]] = []
            cut_off = threading.Thread(
                target=lambda late=late: late.append(
                    running.execute("bash", {"command": "sleep 9"}, policy={"timeout_ms": 400})
                )
            )
            cut_off.start()
            jump(seconds)
            cut_off.join(20)
        assert whole[0][1]["result"] == "through\n", whole
        assert 350 <= whole[0][1]["usage"]["wall_ms"] < 10_000
        assert late[0]["error"]["code"] == "timeout"
        assert 350 <= late[0]["usage"]["wall_ms"] < 10_000
    assert (
        running.execute("bash", {"command": "echo there"}, sandbox_id=name)["result"] == "there\n"
    )
    days = {record["time"][:10] for record in records(running)}
    assert len(days) == 3  # the clock did jump, and the log says so
    assert [record["seq"] for record in records(running)] == list(
        range(1, len(records(running)) + 1)
    )
    assert verify(running.log.parent / "audit.jsonl").problems == []


def test_FI_09_a_daemon_that_starts_a_day_earlier_knows_what_died(
    tmp_path: Path, jump: Callable[[int], None]
) -> None:
    jump(DAY_S)
    with daemon(tmp_path / "state") as first:
        name = first.post("/v1/sandboxes", {})[1]["sandbox_id"]
        first.process.kill()
        first.process.wait()
    jump(0)
    with daemon(tmp_path / "state") as second:
        assert second.post(f"/v1/sandboxes/{name}/extend", {"timeout_s": 9})[0] == 404
        assert verify(tmp_path / "state" / "audit.jsonl").problems == []
        assert second.execute("bash", {"command": "echo up"})["result"] == "up\n"
