"""A call's end is the end of everything it started, and of nothing else."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from doubles.host import Host, Stream
from mas_sandbox.guest import processes

DAEMON = """
import os, signal, sys, time
if os.fork(): sys.exit() if {parent_exits} else time.sleep(600)
os.setsid()
if os.fork(): os._exit(0)
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP): signal.signal(number, signal.SIG_IGN)
open("daemon.pid", "w").write(str(os.getpid()))
{closing}
time.sleep(600)
"""
"""Forks twice, starts its own session, ignores what can be ignored."""

FORKS_AND_EXITS = """
import os, time
os.setsid()
end = time.monotonic() + 20
while time.monotonic() < end:
    if os.fork(): os._exit(0)
"""
"""A chain of processes, each of which lives for the time of one fork."""


def daemon(parent_exits: bool = True, closing: str = "") -> str:
    return DAEMON.format(parent_exits=parent_exits, closing=closing)


def daemon_pid(workspace: Path) -> int:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            return int((workspace / "daemon.pid").read_text())
        except (FileNotFoundError, ValueError):
            time.sleep(0.005)
    raise AssertionError("the daemon did not start")


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def code(stream: Stream) -> str:
    assert stream.result is not None
    return stream.result.code


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def assert_nothing_is_left(host: Host) -> None:
    left = children_of(host.process.pid)
    following = host.bash("echo $$").stdout.decode().split()
    assert left in ([], following), "something other than the process kept for the next call"


def test_timeout_ends_a_daemon_that_forked_twice_and_ignores_signals(
    host: Host, workspace: Path
) -> None:
    begun = time.monotonic()
    call = host.call("python", {"code": daemon(parent_exits=False)}, timeout_ms=1000)
    assert code(call) == "timeout"
    assert 1.0 <= time.monotonic() - begun < 3.0
    assert call.result is not None
    assert "ended after 1000 ms; raise timeout_ms" in call.result.message
    assert call.result.exit_code == 137
    assert not exists(daemon_pid(workspace))
    assert_nothing_is_left(host)


def test_a_daemon_does_not_outlive_its_call_nor_hold_it_up_by_its_pipes(
    host: Host, workspace: Path
) -> None:
    begun = time.monotonic()
    call = host.call("python", {"code": "print('said', flush=True)" + daemon()})
    assert time.monotonic() - begun < 3.0
    assert (code(call), call.stdout) == ("", b"said\n")
    pidfile = workspace / "daemon.pid"
    assert not pidfile.exists() or not exists(daemon_pid(workspace))
    assert_nothing_is_left(host)


def test_a_pipe_held_open_from_another_call_holds_nothing_up(host: Host) -> None:
    ending = host.start_bash("echo $$; read line < <(sleep 1); echo last")
    host.until(lambda: b"\n" in ending.stdout)
    holder = host.start_bash(f"exec 3>/proc/{int(ending.stdout)}/fd/1; echo held; sleep 600")
    host.until(lambda: holder.stdout == b"held\n")
    assert host.finish(ending).stdout.endswith(b"last\n")
    assert holder.result is None
    host.cancel(holder)
    host.finish(holder)


def test_a_daemon_that_closed_its_output_is_ended_by_cancel(host: Host, workspace: Path) -> None:
    closing = "os.closerange(0, 100)"
    call = host.start("python", {"code": daemon(parent_exits=False, closing=closing)})
    pid = daemon_pid(workspace)
    host.cancel(call)
    assert code(host.finish(call)) == "interrupted"
    assert not exists(pid)


def test_a_stopped_process_is_ended(host: Host) -> None:
    call = host.start_bash("setsid sh -c 'echo $$; kill -STOP $$' & wait")
    host.until(lambda: b"\n" in call.stdout)
    pid = int(call.stdout)
    host.cancel(call)
    host.finish(call)
    assert not exists(pid)


def test_a_chain_of_forks_cannot_outrun_its_end(host: Host) -> None:
    call = host.call("python", {"code": FORKS_AND_EXITS}, timeout_ms=300)
    assert call.result is not None
    host.take_for(0.1)
    assert_nothing_is_left(host)


def test_the_end_of_one_call_leaves_the_processes_of_another(host: Host) -> None:
    staying = host.start_bash("(setsid sleep 600 & echo $!); echo up >&2; sleep 600")
    host.until(lambda: b"up" in staying.stderr)
    pid = int(staying.stdout)
    for _ in range(3):
        host.bash("setsid sleep 600 & true")
        host.call("python", {"code": daemon()}, timeout_ms=2000)
    assert exists(pid)
    assert staying.result is None
    assert len(children_of(host.process.pid)) == 1
    host.cancel(staying)
    host.finish(staying)
    assert not exists(pid)


def test_timeouts_of_calls_are_their_own(host: Host) -> None:
    short = host.start_bash("sleep 600", timeout_ms=100)
    long = host.start_bash("sleep 0.5; echo done", timeout_ms=60_000)
    assert code(host.finish(short)) == "timeout"
    assert long.result is None
    assert host.finish(long).stdout == b"done\n"


def test_what_was_written_before_the_timeout_is_kept(host: Host) -> None:
    call = host.bash("echo first; sleep 600", timeout_ms=1000)
    assert (code(call), call.stdout) == ("timeout", b"first\n")


def test_a_signal_is_128_and_its_number(host: Host) -> None:
    call = host.bash("kill -SEGV $$")
    assert call.result is not None
    assert (call.result.exit_code, call.result.code) == (139, "")


def test_usage_is_that_of_the_call(host: Host) -> None:
    call = host.call("python", {"code": "x = bytearray(80_000_000)\nfor _ in range(3_000_000): 1"})
    assert call.result is not None
    assert call.result.cpu_us > 30_000
    assert 80_000 < call.result.max_rss_kb < 150_000


def test_without_a_children_file_they_are_found_by_their_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import subprocess

    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            listed = processes.children()
            read = processes._read

            def unlisted(path: str) -> bytes:
                if path.endswith("/children"):
                    raise FileNotFoundError(path)
                return read(path)

            monkeypatch.setattr(processes, "_read", unlisted)
            assert process.pid in processes.children()
            assert set(processes.children()) == set(listed)
        finally:
            process.kill()
