"""Processes that the host starts, against a real toolrunner: their life, streams and end."""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.host import PATIENCE, Host, Stream, ToolrunnerEnded
from mas_sandbox.guest import landlock
from mas_sandbox.guest.started import MAX_PROCESSES
from mas_sandbox.wire.credit import INITIAL
from mas_sandbox.wire.frames import HEADER, Kind, encode
from mas_sandbox.wire.process import Process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def alive(pid: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


def eventually(done: object) -> None:
    assert callable(done)
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)


def number(host: Host, stream: Stream) -> int:
    """What a process printed as its first line."""
    host.until(lambda: b"\n" in stream.stdout)
    return int(stream.stdout.split()[0])


def ended(stream: Stream) -> tuple[int, str]:
    assert stream.result is not None
    return stream.result.exit_code, stream.result.code


def children(pid: int) -> list[int]:
    try:
        listing = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in listing.split()]


def waiting(keeper: int) -> int | None:
    """The process that this keeper has ready, where it is the toolrunner's own still."""
    try:
        own = Path(f"/proc/{keeper}/cmdline").read_bytes()
        for child in children(keeper):
            if Path(f"/proc/{child}/cmdline").read_bytes() == own:
                return child
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None


def keepers(host: Host) -> list[int]:
    """All but the one that is kept ready."""
    return [pid for pid in children(host.process.pid) if waiting(pid) is None]


def ready(host: Host) -> int:
    """The process that waits, once there is one."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [pid for each in children(host.process.pid) if (pid := waiting(each))]
        return len(found) == 1

    eventually(look)
    return found[0]


@pytest.fixture
def background(host: Host) -> Iterator[int]:
    """A process that another one, which has ended, left running."""
    stream = host.shell("setsid sleep 600 >/dev/null 2>&1 & echo $!")
    yield int(stream.stdout)


def test_it_starts_says_its_id_and_ends_with_its_output_and_usage(host: Host) -> None:
    stream = host.shell("echo $$; echo err >&2; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    assert (int(stream.stdout), stream.stderr) == (stream.pid, b"err\n")
    assert stream.result is not None
    assert ended(stream) == (0, "")
    assert 1000 < stream.result.cpu_us < 20_000_000
    assert 500 < stream.result.max_rss_kb < 500_000


def test_one_that_is_started_as_a_call_lets_go_of_its_pipes_is_heard(host: Host) -> None:
    """The descriptors of the one are the numbers of the other's."""
    host.shell("true")
    for _ in range(5):
        call = host.start_bash("echo; sleep 600")
        host.until(lambda call=call: call.stdout)
        # In one piece, which is one turn of the toolrunner's loop.
        process = Stream(call.number + 1, True)
        host.streams[process.number] = process
        start = Process(["/bin/sh", "-c", "echo heard"]).encode()
        host.socket.sendall(
            encode(Kind.CANCEL, call.number) + encode(Kind.START, process.number, start)
        )
        assert host.finish(process).stdout == b"heard\n"
        assert host.finish(call).result is not None


def test_its_exit_code_and_its_signal_are_data(host: Host) -> None:
    assert ended(host.shell("exit 7")) == (7, "")
    assert ended(host.shell("kill -SEGV $$")) == (139, "")


def test_it_has_the_environment_directory_and_limits_that_were_asked_for(
    host: Host, workspace: Path
) -> None:
    (workspace / "below").mkdir()
    options = {"env": {"A": "b"}, "cwd": "/workspace/below", "nofile": 77}
    stream = host.start_shell(
        "pwd -P; echo $A $HOME; ulimit -n; tr '\\0' '\\n' </proc/self/environ", **options
    )
    out = host.finish(stream).stdout.decode().splitlines()
    assert out[:3] == [str(workspace / "below"), f"b {workspace}", "77"]
    names = {line.partition("=")[0] for line in out[3:]}
    assert names <= {"A", "HOME", "LANG", "PATH", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}


def test_its_posture_is_that_of_a_call(host: Host) -> None:
    show = (
        "grep -E '^(NoNewPrivs|CapEff|Sig...|Uid|Groups):' /proc/self/status;"
        " ls /proc/self/fd; cat /proc/self/oom_score_adj; umask; ulimit -c"
    )
    assert host.shell(show).stdout == host.call("bash", {"command": show}).stdout


@pytest.mark.parametrize(
    ("argv", "options", "code", "reason"),
    [
        (["no-such-program"], {}, "not_found", "not_found"),
        (["/workspace"], {}, "not_found", "not_found"),
        (["/"], {}, "tool_failed", "permission"),
        (["true"], {"cwd": "/workspace/absent"}, "not_found", ""),
        (["true"], {"cwd": "/etc"}, "invalid_request", ""),
        (["true"], {"env": {"LD_PRELOAD": "x"}}, "invalid_request", ""),
        (["true"], {"user": "root-or-someone"}, "invalid_request", ""),
    ],
)
def test_what_cannot_be_started_says_why_and_has_no_id(
    host: Host, argv: list[str], options: dict[str, object], code: str, reason: str
) -> None:
    stream = host.finish(host.start_process(argv, **options))
    assert stream.result is not None
    assert (stream.result.code, stream.result.reason, stream.pid) == (code, reason, None)
    assert stream.result.message
    eventually(lambda: not keepers(host))


def test_it_may_be_asked_for_the_user_it_runs_as(host: Host) -> None:
    import pwd

    name = pwd.getpwuid(os.getuid()).pw_name
    assert ended(host.finish(host.start_process(["true"], user=name))) == (0, "")


def test_its_input_arrives_whole_and_ends(host: Host) -> None:
    data = os.urandom(3 * INITIAL)
    stream = host.start_process(["cat"])
    host.write(stream, data)
    host.write_eof(stream)
    assert host.finish(stream).stdout == data


def test_input_that_nobody_reads_is_held_back_by_credit(host: Host) -> None:
    stream = host.start_process(["sleep", "600"])
    host.write(stream, bytes(INITIAL))
    host.take_for(0.2)
    assert stream.credit.available <= 65536  # a pipe's worth came back
    with pytest.raises(ToolrunnerEnded):
        host.send(Kind.STDIN, stream.number, bytes(65537))
        host.until(lambda: False)
    assert "beyond the stream's credit" in host.exit_status()[1]


def test_input_after_its_reader_has_gone_is_dropped(host: Host) -> None:
    stream = host.start_shell("exec <&-; echo closed; sleep 0.3")
    host.until(lambda: stream.stdout)
    host.write(stream, bytes(4 * INITIAL))
    assert ended(host.finish(stream)) == (0, "")


def test_a_call_that_reads_its_input_is_written_to(host: Host, workspace: Path) -> None:
    data = os.urandom(2 * INITIAL)
    stream = host.start("sandbox.write", {"path": "written"})
    host.write(stream, data)
    host.write_eof(stream)
    assert ended(host.finish(stream)) == (0, "")
    assert (workspace / "written").read_bytes() == data


def test_a_signal_reaches_its_process_group_and_no_other(host: Host) -> None:
    other = host.start_process(["sleep", "600"])
    stream = host.start_shell(
        "trap 'echo got; exit 4' USR1; echo ready; while :; do sleep 0.05; done"
    )
    host.until(lambda: stream.stdout)
    host.signal(stream, signal.SIGUSR1)
    assert host.finish(stream).stdout == b"ready\ngot\n"
    assert ended(stream) == (4, "")
    assert other.result is None
    host.signal(other, signal.SIGTERM)
    assert ended(host.finish(other)) == (143, "")


def test_a_signal_that_comes_at_once_is_not_lost(host: Host) -> None:
    stream = host.start_process(["sleep", "600"])
    host.signal(stream, signal.SIGINT)
    assert ended(host.finish(stream)) == (130, "")


def test_cancel_ends_the_whole_tree_however_deep_it_hid(host: Host) -> None:
    hidden = "(setsid sh -c 'trap \"\" TERM HUP; sleep 600 & echo $!; wait' &); sleep 600"
    stream = host.start_shell(hidden)
    pid = number(host, stream)
    host.cancel(stream)
    assert ended(host.finish(stream)) == (137, "interrupted")
    assert not alive(pid)
    eventually(lambda: not keepers(host))


def test_its_timeout_ends_the_whole_tree_and_keeps_what_it_wrote(host: Host) -> None:
    stream = host.start_shell("setsid sleep 600 & echo $!; sleep 600", timeout_ms=1000)
    assert ended(host.finish(stream)) == (137, "timeout")
    assert not alive(int(stream.stdout))


def test_what_it_leaves_in_the_background_lives_on(host: Host, background: int) -> None:
    host.bash("sleep 0.05 & true")  # whose end makes the toolrunner look for orphans
    host.take_for(0.2)
    assert alive(background)


def test_an_orphan_of_a_call_is_ended_beside_one_that_lives_on(host: Host, background: int) -> None:
    for _ in range(3):
        orphan = host.bash("setsid sleep 600 >/dev/null 2>&1 & echo $!")
        assert not alive(int(orphan.stdout))
        assert alive(background)


def test_a_pipe_held_in_the_background_neither_delays_the_result_nor_breaks(
    host: Host, workspace: Path
) -> None:
    flood = "(while echo 0123456789012345678901234567890123456789; do :; done; echo broke >broke)"
    started = time.monotonic()
    stream = host.start_shell(f"{flood} & echo $! >&2; sleep 0.1")
    host.finish(stream)
    assert time.monotonic() - started < 5
    writer = int(stream.stderr)
    host.take_for(0.3)
    before = written(writer)
    host.take_for(0.3)
    assert alive(writer)
    assert written(writer) > before, "nobody reads what it writes"
    assert not (workspace / "broke").exists()


def written(pid: int) -> int:
    """wchar of proc_pid_io(5)."""
    return int(Path(f"/proc/{pid}/io").read_text().split()[3])


def test_all_that_it_wrote_is_sent_before_its_result_once_there_is_credit(host: Host) -> None:
    size = INITIAL + 30_000  # the rest fits the pipe, so that the program can exit
    stream = host.start_shell(f"head -c {size} /dev/zero; sleep 600 &", grants=False)
    host.until(lambda: len(stream.stdout) == INITIAL)
    host.take_for(0.4)
    assert stream.result is None
    host.give_credit(stream)
    assert len(host.finish(stream).stdout) == size


def test_a_process_that_nobody_reads_from_stalls_nobody_else(host: Host) -> None:
    stalled = host.start_process(["head", "-c", "1000000", "/dev/zero"], grants=False)
    host.until(lambda: len(stalled.stdout) == INITIAL)
    assert len(host.shell("head -c 900000 /dev/zero").stdout) == 900_000
    assert host.call("calculator", {"expression": "6*7"}).value == 42
    host.take_for(0.2)
    assert len(stalled.stdout) == INITIAL
    host.give_credit(stalled)
    assert len(host.finish(stalled).stdout) == 1_000_000


@pytest.mark.parametrize("end", ["goodbye", "hang up", "sigterm"])
def test_the_end_of_the_channel_ends_all_of_it(workspace: Path, end: str) -> None:
    with Host(workspace) as host:
        left = int(host.shell("setsid sleep 600 >/dev/null 2>&1 & echo $!").stdout)
        running = number(host, host.start_shell("echo $$; trap '' TERM HUP; sleep 600"))
        pids = [left, running, *keepers(host)]
        assert len(pids) == 4
        if end == "goodbye":
            host.send(Kind.GOODBYE, 0)
        elif end == "sigterm":
            host.process.terminate()
        else:
            host.socket.close()
        assert host.exit_status() == (0, "")
        assert not any(alive(pid) for pid in pids)


def test_nothing_outlives_a_toolrunner_that_was_killed(workspace: Path) -> None:
    with Host(workspace) as host:
        left = int(host.shell("setsid sleep 600 >/dev/null 2>&1 & echo $!").stdout)
        running = number(host, host.start_shell("echo $$; trap '' TERM HUP; sleep 600"))
        pids = [left, running, *keepers(host)]
        host.process.kill()
        eventually(lambda: not any(alive(pid) for pid in pids))


def test_whoever_kills_the_keeper_dies_with_it_and_with_all_it_left(host: Host) -> None:
    stream = host.start_shell(
        "setsid sleep 600 >/dev/null 2>&1 & echo $!; sleep 0.1; kill -9 $PPID; sleep 600"
    )
    left = number(host, stream)
    assert ended(host.finish(stream)) == (137, "tool_failed")
    eventually(lambda: not alive(left))
    assert host.bash("echo fine").stdout == b"fine\n"


@pytest.mark.skipif(landlock.abi() < 6, reason="Landlock confines signals from ABI 6 on")
def test_behind_landlock_it_cannot_reach_its_keeper(workspace: Path) -> None:
    with Host(workspace, "-landlock") as host:
        stream = host.shell("kill -9 $PPID || echo refused")
        assert (stream.stdout, ended(stream)) == (b"refused\n", (0, ""))


def test_there_is_a_most_of_them_and_the_background_counts(host: Host) -> None:
    for _ in range(MAX_PROCESSES // 8):
        started = [host.start_process(["sleep", "600"]) for _ in range(8)]
        host.until(lambda: all(stream.pid for stream in started))  # noqa: B023
    refused = host.shell("true")
    assert refused.result is not None
    assert refused.result.code == "tool_failed"
    assert f"{MAX_PROCESSES} processes" in refused.result.message
    host.cancel(started[0])
    host.finish(started[0])
    eventually(lambda: len(keepers(host)) == MAX_PROCESSES - 1)
    assert ended(host.shell("true")) == (0, "")


@pytest.mark.parametrize(
    ("kind", "payload", "complaint"),
    [
        (Kind.SIGNAL, b"", "SIGNAL"),
        (Kind.SIGNAL, b"\0", "SIGNAL"),
        (Kind.SIGNAL, b"\xff", "SIGNAL"),
        (Kind.RESIZE, b"\0\1", "RESIZE"),
        (Kind.CREDIT, struct.pack("!I", INITIAL), "never sent"),
        (Kind.START, Process(["true"]).encode(), "in use"),
    ],
)
def test_a_broken_rule_ends_the_toolrunner_and_its_processes(
    host: Host, kind: Kind, payload: bytes, complaint: str
) -> None:
    stream = host.start_shell("echo $$; sleep 600")
    pid = number(host, stream)
    host.socket.sendall(HEADER.pack(len(payload), kind, stream.number) + payload)
    with pytest.raises(ToolrunnerEnded):
        host.take_for(PATIENCE)
    status, stderr = host.exit_status()
    assert (status, complaint in stderr) == (70, True)
    assert not alive(pid)


def test_frames_for_a_process_that_is_over_are_ignored(host: Host) -> None:
    over = host.shell("true")
    for kind, payload in (
        *((Kind.STDIN, b"x"), (Kind.SIGNAL, b"\x0f"), (Kind.RESIZE, b"\0\1\0\1")),
        *((Kind.CANCEL, b""), (Kind.CREDIT, struct.pack("!I", 1000))),
    ):
        host.send(kind, over.number, payload)
    assert host.shell("echo still").stdout == b"still\n"


def test_the_toolrunner_keeps_no_descriptor_of_what_has_ended(host: Host) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{host.process.pid}/fd"))

    host.shell("true")
    ready(host)
    before = descriptors()
    for _ in range(5):
        host.finish(host.start_process(["cat"], pty=(10, 10), timeout_ms=50))
        host.finish(host.start_process(["absent"]))
        host.shell("sleep 0.1 &")
    ready(host)
    eventually(lambda: descriptors() == before)


def test_after_a_process_one_waits_and_is_the_next(host: Host) -> None:
    host.shell("true")
    spare = ready(host)
    stream = host.shell("echo $$")
    assert (stream.pid, int(stream.stdout)) == (spare, spare)
    assert ready(host) != spare


def test_the_one_that_waited_is_what_a_forked_one_is(host: Host, workspace: Path) -> None:
    show = (
        "grep -vE '^(Pid|PPid|Tgid|Ngid|NStgid|NSpid|NSpgid|NSsid|SigQ|Vm|Rss|.*_switches|Cpus_|Mems_)'"
        " /proc/self/status; ls /proc/self/fd; cat /proc/self/oom_score_adj; umask; ulimit -a;"
        " pwd; env | sort"
    )
    (workspace / "below").mkdir()
    options = {"env": {"A": "b"}, "cwd": "/workspace/below", "nofile": 99}
    forked = host.shell(show, **options)
    spare = ready(host)
    waited = host.shell(show, **options)
    assert waited.pid == spare
    assert waited.stdout == forked.stdout


def test_nothing_waits_beside_what_runs(host: Host) -> None:
    host.shell("true")
    spare = ready(host)
    running = host.start_bash("sleep 600")
    eventually(lambda: not alive(spare))
    eventually(lambda: len(children(host.process.pid)) == 1)
    host.cancel(running)
    host.finish(running)
    host.shell("sleep 600 >/dev/null 2>&1 &")
    host.take_for(0.1)
    assert [waiting(pid) for pid in children(host.process.pid)] == [None]


def test_one_that_waited_in_vain_is_replaced(host: Host) -> None:
    host.shell("true")
    spare = ready(host)
    os.kill(spare, signal.SIGKILL)
    eventually(lambda: not alive(spare))
    assert host.shell("echo fine").stdout == b"fine\n"
    assert host.shell("echo fine").stdout == b"fine\n"


def test_one_that_waits_is_gone_with_the_toolrunner(workspace: Path) -> None:
    with Host(workspace) as host:
        host.shell("true")
        spare = ready(host)
        host.process.kill()
        eventually(lambda: not alive(spare))
