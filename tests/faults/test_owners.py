"""FI-12, FI-15: what is left is listed and removed by whose it is, and never by a process id."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mas_sandbox.runtimes import cgroup
from mas_sandbox.runtimes.cgroup import group_parents, members
from mas_sandbox.runtimes.leftovers import find_leftovers, remove_leftovers
from mas_sandbox.runtimes.ownership import Locks, Ownership

_DAEMON = """
import sys, tempfile
from pathlib import Path
from mas_sandbox.runtimes.cgroup import Cgroups, Limits
from mas_sandbox.runtimes.ownership import Ownership

ownership = Ownership(Path(sys.argv[1]))
state = Path(sys.argv[2])
group = Cgroups(ownership).create("1", Limits(mem_mb=16, pids=4))
(Path(tempfile.gettempdir()) / ownership.name("2")).mkdir()
(state / "microvm" / "running" / ownership.name("vm3")).mkdir(parents=True)
print(ownership.token, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def locks(tmp_path: Path) -> Locks:
    """In a directory of the test's own: no other daemon's reclaim touches its tokens."""
    return Locks(tmp_path / "locks")


@contextmanager
def predecessor(locks: Locks, state: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A daemon with a group, a workspace and a machine's directory; and its token."""
    with subprocess.Popen(
        [sys.executable, "-c", _DAEMON, str(locks.directory), str(state)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def killed(locks: Locks, state: Path) -> str:
    """The token of one that was killed."""
    with predecessor(locks, state) as (process, token):
        process.send_signal(signal.SIGKILL)
        process.wait()
    return token


def test_FI_12_what_a_dead_daemon_left_is_listed_and_removed_once(
    locks: Locks, tmp_path: Path
) -> None:
    with predecessor(locks, tmp_path) as (process, token):
        assert find_leftovers(locks, tmp_path) == []  # it lives
        process.send_signal(signal.SIGKILL)
        process.wait()
    found = find_leftovers(locks, tmp_path)
    assert {each.kind for each in found} == {"control group", "workspace", "machine", "lock"}
    assert all(token in each.name for each in found)
    assert find_leftovers(locks, tmp_path) == found  # looking changes nothing
    assert remove_leftovers(locks, tmp_path) == []
    assert remove_leftovers(locks, tmp_path) == []
    assert list(Path(tempfile.gettempdir()).glob(f"*{token}*")) == []


def test_FI_12_a_process_that_outlived_its_daemon_is_shown_and_ended(
    locks: Locks, tmp_path: Path
) -> None:
    token = killed(locks, tmp_path)
    groups = [path for parent in group_parents() for path in parent.glob(f"*{token}*")]
    survivor = subprocess.Popen(["sleep", "99"])
    bystander = subprocess.Popen(["sleep", "99"])
    try:
        for group in groups:
            (group / "cgroup.procs").write_text(str(survivor.pid))
        shown = [each for each in find_leftovers(locks, tmp_path) if each.processes]
        assert {each.processes for each in shown} == {(survivor.pid,)}
        # A group is empty only once its last process has been waited for.
        reaping = threading.Thread(target=survivor.wait)
        reaping.start()
        assert remove_leftovers(locks, tmp_path) == []
        reaping.join(5)
        assert survivor.wait(5) == -signal.SIGKILL
        assert bystander.poll() is None
    finally:
        for each in (survivor, bystander):
            each.kill()
            each.wait()


def test_FI_15_restarted_twice_each_removes_the_last_and_spares_the_living(
    locks: Locks, tmp_path: Path
) -> None:
    with predecessor(locks, tmp_path) as (_, living):
        kept = _names(living, tmp_path)
        for _ in range(2):
            dead = killed(locks, tmp_path)
            assert _names(dead, tmp_path)
            owner = Ownership(locks.directory)
            assert remove_leftovers(owner, tmp_path) == []
            assert _names(dead, tmp_path) == set()
            assert _names(living, tmp_path) == kept
            owner.close()
    assert remove_leftovers(locks, tmp_path) == []


def test_FI_15_a_process_whose_id_recurred_is_spared(
    locks: Locks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading a group and signalling, its process ended and another got its id."""
    token = killed(locks, tmp_path)
    bystander = subprocess.Popen(["sleep", "99"])
    try:
        group = next(path for parent in group_parents() for path in parent.glob(f"*{token}*"))
        answers = [[bystander.pid], []]
        monkeypatch.setattr(cgroup, "members", lambda _: answers.pop(0) if answers else [])
        cgroup._kill_members(group)
        assert answers == []
        time.sleep(0.05)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
        monkeypatch.undo()
        assert remove_leftovers(locks, tmp_path) == []
    assert members(group) == []


def test_FI_12_the_command_lists_it_and_a_daemon_that_starts_removes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another user of this host would see it: with a lock directory of its own."""
    if os.geteuid() != 0:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    state = tmp_path / "state"
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from mas_sandbox.runtimes import ownership\n"
        f"ownership.lock_directory = lambda: Path({str(tmp_path / 'locks')!r})\n"
        "from mas_sandbox.server.main import main\nmain(sys.argv[1:])\n"
    )
    token = killed(Locks(tmp_path / "locks"), state)
    asked = [sys.executable, "-c", program, "-state-dir", str(state), "-leftovers"]
    said = json.loads(subprocess.run(asked, capture_output=True, timeout=30, check=True).stdout)
    assert len(said["leftovers"]) >= 4
    assert all(token in each["name"] for each in said["leftovers"])
    serving = [*asked[:-1], "-listen", "127.0.0.1:0", "-runtime", "local"]
    with subprocess.Popen(serving, stderr=subprocess.PIPE, text=True) as daemon:
        assert daemon.stderr is not None
        try:
            assert any("ready" in line for line in iter(daemon.stderr.readline, ""))
            assert _names(token, state) == set()
        finally:
            daemon.terminate()
            daemon.communicate(timeout=20)
    said = json.loads(subprocess.run(asked, capture_output=True, timeout=30, check=True).stdout)
    assert said == {"leftovers": []}


def _names(token: str, state: Path) -> set[str]:
    """What carries a token, but for its lock."""
    places = [
        *group_parents(),
        Path(tempfile.gettempdir()),
        state / "microvm" / "running",
    ]
    return {str(path) for place in places for path in place.glob(f"mas-sandbox-{token}*")}
