"""The protocol as a host sees it, against a real toolrunner process."""

from __future__ import annotations

import select
import signal
import struct
import time
from pathlib import Path

import pytest

from doubles.host import Host, Stream, ToolrunnerEnded
from mas_sandbox.wire.credit import INITIAL
from mas_sandbox.wire.frames import HEADER, Kind
from mas_sandbox.wire.messages import Call


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


def eventually_dead(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not alive(pid)


def cpu_ticks(pid: int) -> int:
    """utime and stime of proc_pid_stat(5), in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def resident_kb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


def pid_of(host: Host, stream: Stream) -> int:
    """The number that a call printed as its first line."""
    host.until(lambda: b"\n" in stream.stdout)
    return int(stream.stdout.split()[0])


def broken_by(host: Host, *frames: bytes) -> str:
    """The stderr of the toolrunner that these bytes ended."""
    host.socket.sendall(b"".join(frames))
    with pytest.raises(ToolrunnerEnded):
        host.until(lambda: False)
    status, stderr = host.exit_status()
    assert status == 70
    assert stderr.count("\n") == 1
    return stderr


def test_hello_names_the_tools_and_welcome_is_answered_again_and_again(host: Host) -> None:
    assert host.hello is not None
    assert {"bash", "calculator"} <= set(host.hello.tools)
    assert host.hello.pid == host.process.pid
    host.welcome({})
    assert host.ready == 2


def test_ping_is_answered_with_its_own_bytes(host: Host) -> None:
    host.send(Kind.PING, 0, b"x" * 64)
    host.until(lambda: host.pongs == [b"x" * 64])


def test_calls_at_once_each_get_their_own_answer(host: Host) -> None:
    streams = [host.start("calculator", {"expression": f"{n} * 1000"}) for n in range(20)]
    streams += [host.start_bash(f"echo {n}; echo {n} >&2; exit {n}") for n in range(20)]
    for stream in streams:
        host.finish(stream)
    assert [stream.value for stream in streams[:20]] == [n * 1000 for n in range(20)]
    for n, stream in enumerate(streams[20:]):
        assert stream.result is not None
        assert (stream.stdout, stream.stderr) == (b"%d\n" % n, b"%d\n" % n)
        assert (stream.result.exit_code, stream.result.code) == (n, "")


def test_a_quick_call_overtakes_a_slow_one(host: Host) -> None:
    slow = host.start_bash("sleep 30")
    assert host.call("calculator", {"expression": "2+2"}).value == 4
    assert slow.result is None
    host.cancel(slow)
    host.finish(slow)


def test_cancel_interrupts_that_call_alone(host: Host) -> None:
    doomed, other = host.start_bash("echo $$; sleep 60"), host.start_bash("sleep 0.2; echo fine")
    pid = pid_of(host, doomed)
    host.cancel(doomed)
    host.finish(doomed)
    assert doomed.result is not None
    assert doomed.result.code == "interrupted"
    assert not alive(pid)
    assert host.finish(other).stdout == b"fine\n"


def test_frames_for_a_stream_that_is_over_are_ignored(host: Host) -> None:
    over = host.bash("true")
    host.cancel(over)
    host.send(Kind.CREDIT, over.number, struct.pack("!I", 1000))
    assert host.bash("echo still").stdout == b"still\n"


def test_end_of_the_channel_ends_every_call_and_the_toolrunner(workspace: Path) -> None:
    with Host(workspace) as host:
        pids = [
            pid_of(host, host.start_bash("echo $$; trap '' TERM HUP; sleep 600")) for _ in range(2)
        ]
        host.socket.close()
        assert host.exit_status() == (0, "")
    assert [alive(pid) for pid in pids] == [False, False]


def test_goodbye_and_sigterm_end_every_call_and_the_toolrunner(workspace: Path) -> None:
    for end in (
        lambda host: host.send(Kind.GOODBYE, 0),
        lambda host: host.process.send_signal(signal.SIGTERM),
    ):
        with Host(workspace) as host:
            pid = pid_of(host, host.start_bash("(setsid sleep 600 & echo $!); sleep 600"))
            end(host)
            assert host.exit_status() == (0, "")
        assert not alive(pid)


def test_main_processes_do_not_outlive_a_killed_toolrunner(workspace: Path) -> None:
    with Host(workspace) as host:
        pid = pid_of(host, host.start_bash("echo $$; exec sleep 600"))
        host.process.kill()
        assert eventually_dead(pid)


def test_a_header_of_4_gib_ends_the_toolrunner_before_any_payload(host: Host) -> None:
    assert "4294967295 bytes" in broken_by(host, HEADER.pack(2**32 - 1, Kind.CALL, 1))


@pytest.mark.parametrize(
    ("kind", "stream", "payload", "complaint"),
    [
        (Kind.HELLO, 0, b"", "unexpected frame kind"),
        (Kind.CALL, 0, b"{}", "stream 0"),
        (Kind.PING, 7, b"", "stream 7"),
        (Kind.PING, 0, b"x" * 65, "65 bytes"),
        (Kind.CALL, 1, b"{}", "exactly the fields"),
        (Kind.CALL, 1, b"not json", "not JSON"),
        (Kind.WELCOME, 0, b"[]", "exactly the fields"),
    ],
)
def test_a_broken_rule_ends_the_toolrunner(
    host: Host, kind: Kind, stream: int, payload: bytes, complaint: str
) -> None:
    assert complaint in broken_by(host, HEADER.pack(len(payload), kind, stream) + payload)


def test_a_stream_in_use_cannot_be_opened_again_and_its_call_is_ended(host: Host) -> None:
    running = host.start_bash("echo $$; sleep 600")
    pid = pid_of(host, running)
    payload = Call("bash", {"command": "true"}).encode()
    frame = HEADER.pack(len(payload), Kind.CALL, running.number) + payload
    assert "in use" in broken_by(host, frame)
    assert not alive(pid)


@pytest.mark.parametrize("kind", [Kind.STDIN, Kind.SIGNAL, Kind.RESIZE])
def test_a_call_that_reads_nothing_is_told_nothing(host: Host, kind: Kind) -> None:
    running = host.start_bash("sleep 600")
    frame = HEADER.pack(4, kind, running.number) + b"\0\x09\0\x09"
    assert f"a {kind.name} frame" in broken_by(host, frame)


def test_credit_for_bytes_never_sent_ends_the_toolrunner(host: Host) -> None:
    running = host.start_bash("sleep 600")
    frame = HEADER.pack(4, Kind.CREDIT, running.number) + struct.pack("!I", INITIAL)
    assert "never sent" in broken_by(host, frame)


def test_a_stream_without_credit_stalls_its_own_call_only(host: Host) -> None:
    stalled = host.start_bash("head -c 1000000 /dev/zero; echo end >&2", grants=False)
    host.until(lambda: len(stalled.stdout) == INITIAL)
    assert len(host.bash("head -c 900000 /dev/zero").stdout) == 900_000
    host.take_for(0.2)
    assert len(stalled.stdout) == INITIAL
    assert stalled.result is None
    host.give_credit(stalled)
    assert host.finish(stalled).stdout == bytes(1_000_000)
    assert stalled.stderr == b"end\n"


def test_what_a_call_left_in_its_pipes_is_sent_once_there_is_credit(host: Host) -> None:
    size = INITIAL + 30_000  # the rest fits the pipe, so that the program can exit
    stalled = host.start_bash(f"head -c {size} /dev/zero", grants=False)
    host.until(lambda: len(stalled.stdout) == INITIAL)
    host.take_for(0.3)
    assert stalled.result is None
    host.give_credit(stalled)
    assert len(host.finish(stalled).stdout) == size


def test_a_flood_ends_at_exactly_its_limit_while_another_call_answers(host: Host) -> None:
    flood = host.start_bash("yes", output_bytes=50_000_000)
    host.until(lambda: len(flood.stdout) > 1_000_000)
    assert host.call("calculator", {"expression": "1+1"}).value == 2
    assert flood.result is None
    capped = host.bash("yes & yes >&2", output_bytes=300_001)
    assert capped.result is not None
    assert capped.result.code == "output_limit"
    assert len(capped.stdout) + len(capped.stderr) == 300_001
    host.cancel(flood)
    host.finish(flood)


def test_floods_take_turns(host: Host) -> None:
    floods = [host.start_bash("yes", output_bytes=10**9) for _ in range(5)]
    host.until(lambda: all(flood.stdout for flood in floods))  # each `yes` has started
    begun = [len(flood.stdout) for flood in floods]
    # A loop that stayed with one flood would never come to the others, for none of them ends.
    host.until(
        lambda: all(
            len(flood.stdout) > n + 1_000_000 for flood, n in zip(floods, begun, strict=True)
        )
    )


def test_a_call_that_has_ended_is_answered_through_any_number_of_floods(host: Host) -> None:
    floods = [host.start_bash("yes", output_bytes=10**9) for _ in range(8)]
    host.until(lambda: all(flood.stdout for flood in floods))
    for _ in range(5):
        before = sum(len(flood.stdout) for flood in floods)
        assert host.call("calculator", {"expression": "1+1"}).value == 2
        assert sum(len(flood.stdout) for flood in floods) - before < 30_000_000


def test_output_of_exactly_the_limit_is_no_failure(host: Host) -> None:
    exact = host.bash("head -c 70000 /dev/zero", output_bytes=70_000)
    assert exact.result is not None
    assert (exact.result.code, len(exact.stdout)) == ("", 70_000)
    none = host.bash("true", output_bytes=0)
    assert none.result is not None
    assert none.result.code == ""


def test_a_host_that_does_not_read_makes_the_calls_wait_and_not_the_buffer_grow(
    workspace: Path,
) -> None:
    with Host(workspace) as host:
        host.bash("true")
        before = resident_kb(host.process.pid)
        streams = [host.start_bash("head -c 250000 /dev/zero") for _ in range(40)]
        time.sleep(1.0)
        assert resident_kb(host.process.pid) - before < 3_000
        for stream in streams:
            assert len(host.finish(stream).stdout) == 250_000


def test_the_toolrunner_sleeps_when_nothing_happens(host: Host) -> None:
    host.start_bash("sleep 600", timeout_ms=600_000)
    stalled = host.start_bash("yes", grants=False, output_bytes=10**9)
    host.until(lambda: len(stalled.stdout) == INITIAL)
    before = cpu_ticks(host.process.pid)
    assert select.select([host.socket], [], [], 0.5)[0] == []
    assert cpu_ticks(host.process.pid) - before <= 2
