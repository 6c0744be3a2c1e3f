"""What a call's process has, and has not."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from doubles.host import Host

REACH = """
import ctypes, os, sys
parent = int(sys.argv[1]) if len(sys.argv) > 1 else os.getppid()
reached = []
try:
    for name in os.listdir(f"/proc/{parent}/fd"):
        reached.append(os.readlink(f"/proc/{parent}/fd/{name}"))
        os.open(f"/proc/{parent}/fd/{name}", os.O_RDWR | os.O_NONBLOCK)
except OSError as error:
    reached.append(error.strerror)
try:
    open(f"/proc/{parent}/mem", "rb")
    reached.append("memory")
except OSError as error:
    reached.append(error.strerror)
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(16, parent, 0, 0) == 0:
    reached.append("traced")
else:
    reached.append(os.strerror(ctypes.get_errno()))
print(reached)
"""
"""By /proc and by ptrace(2), PTRACE_ATTACH."""


def outcome(host: Host, **limits: Any) -> tuple[str, str]:
    result = host.bash("true", **limits).result
    assert result is not None
    return result.code, result.message


def test_the_environment_is_built_from_nothing(workspace: Path) -> None:
    with Host(workspace, environment={"SECRET": "canary", "PATH": "/evil", "LC_ALL": "C"}) as host:
        shown = host.call(
            "python",
            {"code": "import os, json; print(json.dumps(dict(os.environ)))"},
            env={"A": "b"},
        )
        assert json.loads(shown.stdout) == {
            "A": "b",
            "HOME": str(workspace),
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "TMPDIR": "/tmp",
        }
        assert b"canary" not in host.bash("cat /proc/self/environ").stdout


@pytest.mark.parametrize(
    "name",
    [
        *("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "BASH_ENV", "ENV", "IFS", "GCONV_PATH"),
        *("BASH_FUNC_ls%%", "GLIBC_TUNABLES", "PATH", "", "A=B", "A\0"),
    ],
)
def test_a_name_that_steers_programs_is_refused(host: Host, name: str) -> None:
    code, message = outcome(host, env={name: "x"})
    assert code == "invalid_request"
    assert "environment variable" in message


def test_a_call_has_its_three_descriptors_and_no_other(host: Host) -> None:
    streams = [host.start_bash("sleep 600") for _ in range(3)]
    listing = host.call("python", {"code": "import os; print(os.listdir('/proc/self/fd'))"})
    assert listing.stdout == b"['0', '1', '2', '3']\n"  # 3 is that of the listing
    assert host.bash("readlink /proc/self/fd/0; wc -c").stdout == b"/dev/null\n0\n"
    for stream in streams:
        host.cancel(stream)
        host.finish(stream)


def test_the_channel_cannot_be_reached_from_a_call(host: Host) -> None:
    denied = "Permission denied"
    reached = host.call("python", {"code": REACH})
    assert reached.stdout.decode() == f"{[denied, denied, 'Operation not permitted']}\n"


def test_limits_of_a_call(host: Host) -> None:
    shown = host.bash(
        "ulimit -c; ulimit -n; ulimit -f; umask; cat /proc/self/oom_score_adj;"
        "grep NoNewPrivs /proc/self/status; cut -d' ' -f1,5,6 /proc/$$/stat",
        nofile=77,
        fsize_bytes=4096,
    )
    core, nofile, fsize, umask, score, *privileges, ids = shown.stdout.decode().split("\n")[:-1]
    assert (core, nofile, fsize, umask, score) == ("0", "77", "4", "0022", "1000")
    assert privileges == ["NoNewPrivs:\t1"]
    assert len(set(ids.split())) == 1
    overfull = host.bash("head -c 5000 /dev/zero > big; echo $?; wc -c < big", fsize_bytes=4096)
    assert overfull.stdout.split()[1] == b"4096"


def test_programs_start_with_the_default_signal_actions(workspace: Path) -> None:
    """Also where the daemon has not: nohup ignores SIGHUP, and a supervisor may block some."""
    look = "grep -E 'Sig(Ign|Blk)' /proc/self/status"
    odd = signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1
    before = [signal.signal(number, signal.SIG_IGN) for number in odd]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD, signal.SIGTERM})
    try:
        with Host(workspace) as host:
            shown = host.bash(look).stdout + host.shell(look).stdout
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in zip(odd, before, strict=True):
            signal.signal(number, handler)
    assert {line.split()[1] for line in shown.splitlines()} == {b"0" * 16}


def test_the_working_directory_is_beneath_the_workspace(host: Host, workspace: Path) -> None:
    (workspace / "sub").mkdir()
    (workspace / "file").touch()
    os.symlink("/etc", workspace / "link")
    assert host.bash("pwd", cwd="/workspace/sub").stdout.decode() == f"{workspace}/sub\n"
    assert outcome(host, cwd="/workspace/./sub//") == ("", "")
    assert outcome(host, cwd="/workspace/absent")[0] == "not_found"
    for bad in ("/etc", "sub", "/workspace/../etc", "/workspace/link", "/workspace/file", "/work"):
        assert outcome(host, cwd=bad)[0] == "invalid_request", bad
    assert outcome(host, cwd="/workspace/a\0b")[0] == "invalid_request"
    assert outcome(host, cwd="/workspace/" + "x" * 5000)[0] == "invalid_request"


def test_an_unknown_tool_is_not_found(host: Host) -> None:
    result = host.call("no_such_tool", {}).result
    assert result is not None
    assert result.code == "not_found"
    assert "calculator" in result.message


def test_a_failing_tool_says_so_in_words(host: Host) -> None:
    result = host.call("calculator", {"expression": "1/0"}).result
    assert result is not None
    assert (result.code, result.exit_code) == ("tool_failed", 1)
    assert result.message


def test_without_processes_to_be_had_the_call_fails_and_the_next_one_runs(workspace: Path) -> None:
    with Host(workspace) as host:
        pid = host.process.pid
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors + 3, before[1]))
        code, message = outcome(host)
        assert code == "tool_failed"
        assert "no process could be started" in message
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert outcome(host) == ("", "")
        assert len(os.listdir(f"/proc/{pid}/fd")) == descriptors
