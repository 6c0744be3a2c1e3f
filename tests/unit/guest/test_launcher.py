"""The process that is kept ready: what it becomes, when there is one, and that it can go."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from doubles.host import PATIENCE, Host, Stream
from mas_sandbox.guest import landlock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps one ready")

POSTURE = """
import json, os, resource
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
wanted = ("Uid", "Gid", "NoNewPrivs", "CapEff", "SigBlk", "SigIgn", "SigCgt", "Groups")
limits = {name: resource.getrlimit(getattr(resource, name))
          for name in dir(resource) if name.startswith("RLIMIT_")}
print(json.dumps([
    {name: status[name] for name in wanted}, limits, dict(os.environ), os.getcwd(),
    sorted(os.listdir("/proc/self/fd")), os.getpgid(0) == os.getpid() == os.getsid(0),
    open("/proc/self/oom_score_adj").read(), os.umask(0),
]))
"""
STRUCTURE = {"tool": "python", "args": {"code": POSTURE}}
EXTENSION = {"own.py": 'def twice(n: int) -> int:\n    """Twice."""\n    return 2 * n\n'}


def children(host: Host) -> list[int]:
    number = host.process.pid
    return [int(pid) for pid in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def spare(host: Host) -> int:
    """The process that waits, once there is one."""
    deadline = time.monotonic() + PATIENCE
    while not (found := children(host)):
        assert time.monotonic() < deadline, "no process is kept ready"
        time.sleep(0.002)
    assert len(found) == 1
    return found[0]


def said(stream: Stream) -> Any:
    assert stream.result is not None
    assert (stream.result.code, stream.stderr) == ("", b"")
    return json.loads(stream.stdout)


def test_after_a_call_a_process_waits_and_is_the_next_one(host: Host) -> None:
    host.bash("true")
    waiting = spare(host)
    assert said(host.bash("echo $$")) == waiting
    assert spare(host) != waiting


def test_a_sandbox_that_served_nobody_keeps_no_process(host: Host) -> None:
    host.take_for(0.1)
    assert children(host) == []


@pytest.mark.parametrize("flags", [(), ("-landlock",)])
def test_the_process_that_waited_has_what_a_forked_one_has(
    workspace: Path, flags: tuple[str, ...]
) -> None:
    (workspace / "below").mkdir()
    limits: dict[str, Any] = {"env": {"A": "b"}, "cwd": "/workspace/below"}
    limits |= {"nofile": 99, "fsize_bytes": 4096, "cpu_ms": 9000}
    with Host(workspace, *flags) as host:
        forked = said(host.call(**STRUCTURE, **limits))
        waiting = spare(host)
        waited = said(host.call(**STRUCTURE, **limits))
        assert waiting not in children(host)
    assert waited == forked
    assert waited[1]["RLIMIT_NOFILE"] == [99, 99]


def test_a_function_runs_in_it_with_its_own_grants(host: Host, workspace: Path) -> None:
    (workspace / "file").write_text("content")
    for paths in ([], [("/workspace", "ro")], [("/workspace", "rw")]):
        host.call("read_file", {"path": "file"})
        spare(host)
        result = host.call("write_file", {"path": "file", "content": "new"}, paths=paths).result
        assert result is not None
        assert (result.code == "") == (paths == [("/workspace", "rw")])
    assert (workspace / "file").read_text() == "new"


@pytest.mark.skipif(landlock.abi() < 3, reason="Landlock is not here")
def test_a_directory_replaced_while_it_waits_is_what_it_is_granted(workspace: Path) -> None:
    (workspace / "given").mkdir()
    with Host(workspace, "-landlock") as host:
        host.bash("true")
        spare(host)
        (workspace / "given").rename(workspace / "old")
        (workspace / "given").mkdir()
        wrote = host.bash(
            "cd given && echo > file && echo new; echo > ../old/file && echo old; true",
            paths=[("/workspace/given", "rw")],
        )
    assert wrote.stdout == b"new\n"


def test_while_calls_run_nobody_waits(host: Host) -> None:
    host.bash("true")
    spare(host)
    running = [host.start_bash("echo; sleep 600") for _ in range(2)]
    host.until(lambda: all(stream.stdout for stream in running))
    host.take_for(0.1)
    assert len(children(host)) == 2
    for stream in running:
        host.cancel(stream)
        host.finish(stream)


@pytest.mark.parametrize(
    ("tool", "args"),
    [("twice", {"n": 4}), ("calculator", {"expression": "4 + 4" + " " * 40_000})],
)
def test_a_call_that_it_cannot_be_ends_it(workspace: Path, tool: str, args: dict[str, Any]) -> None:
    with Host(workspace, extensions=EXTENSION) as host:
        host.bash("true")
        waiting = spare(host)
        host.finish(host.start(tool, args))
        assert not Path(f"/proc/{waiting}").exists()
        assert said(host.bash("echo 1")) == 1


def test_one_that_was_killed_is_not_missed(host: Host) -> None:
    host.bash("true")
    waiting = spare(host)
    os.kill(waiting, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while ") Z " not in Path(f"/proc/{waiting}/stat").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    assert said(host.bash("echo 1")) == 1


def test_what_it_took_to_prepare_is_not_the_calls_to_pay(host: Host) -> None:
    host.call("calculator", {"expression": "1"})
    less = 0
    for _ in range(5):  # a call of a busy machine's may take more than it should
        waiting = spare(host)
        time.sleep(0.1)
        used = Path(f"/proc/{waiting}/schedstat").read_text().split()[0]
        alone = host.call("calculator", {"expression": "1"}).result
        assert alone is not None
        less += 0 < alone.cpu_us < int(used) // 1000
    assert less > 0


def test_it_goes_with_the_toolrunner(host: Host) -> None:
    host.bash("true")
    waiting = spare(host)
    host.process.kill()
    host.process.wait()
    deadline = time.monotonic() + PATIENCE
    while Path(f"/proc/{waiting}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)
