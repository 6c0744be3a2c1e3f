"""What is known of named sandboxes after their daemon was killed, and what is left of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import census
from mas_sandbox.audit.verify import verify
from mas_sandbox.server.registry.store import FILE_NAME
from running_daemon import TOKEN, RunningDaemon, daemon


def get(running: RunningDaemon, path: str) -> dict[str, Any]:
    request = urllib.request.Request(
        running.url + path, headers={"authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


def opened(running: RunningDaemon, **fields: Any) -> str:
    status, made = running.post("/v1/sandboxes", fields)
    assert status == 200, made
    name: str = made["sandbox_id"]
    return name


def descendants(process: int) -> set[int]:
    found = census.children(process)
    for each in found:  # it grows as it is read
        found += census.children(each)
    return set(found)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_sandboxes_of_a_daemon_that_ended_are_interrupted_and_never_resurrected(
    tmp_path: Path, end: signal.Signals
) -> None:
    with daemon(tmp_path) as running:
        lived = opened(running, metadata={"run": "r-1"})
        paused = opened(running)
        running.post(f"/v1/sandboxes/{paused}/pause", {})
        deleted = opened(running)
        running.post("/v1/sandbox/destroy", {"sandbox_id": deleted})
        running.process.send_signal(end)
        running.process.wait(20)
    with daemon(tmp_path) as running:
        states = {
            each["sandbox_id"]: each["state"] for each in get(running, "/v1/sandboxes")["sandboxes"]
        }
        assert states == {lived: "interrupted", paused: "interrupted"}
        assert get(running, f"/v1/sandboxes/{deleted}")["state"] == "ended"
        found = get(running, "/v1/sandboxes?metadata.run=r-1")["sandboxes"]
        assert [each["sandbox_id"] for each in found] == [lived]
        for name in states:
            assert running.post(f"/v1/sandboxes/{name}/resume", {})[0] == 404
        assert get(running, "/v1/sandbox/health")["sandboxes"] == 0
        log = tmp_path / "audit.jsonl"
    assert verify(log).problems == []


@pytest.mark.parametrize("runtime", ["jail", "gvisor", "local"])
def test_a_daemon_killed_while_a_sandbox_is_paused_leaves_no_process(
    tmp_path: Path, runtime: str
) -> None:
    with daemon(tmp_path, "-pool", "0", runtime=runtime) as running:
        name = opened(running)
        command = "(trap '' HUP TERM; while :; do :; done) & sleep 0.1"
        running.execute("bash", {"command": command}, sandbox_id=name)
        assert running.post(f"/v1/sandboxes/{name}/pause", {})[1]["state"] == "paused"
        processes = descendants(running.process.pid)
        assert processes
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(20)
        deadline = time.monotonic() + 3
        while left := {each for each, words in census.commands().items() if words} & processes:
            assert time.monotonic() < deadline, left
            time.sleep(0.02)


def test_ss_06_a_damaged_file_is_refused_at_start_with_the_mend(tmp_path: Path) -> None:
    with daemon(tmp_path) as running:
        opened(running)
    place = tmp_path / FILE_NAME
    place.write_bytes(place.read_bytes().replace(b"interrupted", b"running____"))
    arguments = ["-listen", "127.0.0.1:0", "-runtime", "local", "-state-dir", str(tmp_path)]
    refused = subprocess.run(
        [sys.executable, "-m", "mas_sandbox.server.main", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert refused.returncode == 1
    assert f"{place} cannot be used" in refused.stderr
    assert "move the file aside" in refused.stderr
    assert "Traceback" not in refused.stderr
    place.rename(tmp_path / "aside")
    with daemon(tmp_path) as running:
        assert get(running, "/v1/sandboxes")["sandboxes"] == []
