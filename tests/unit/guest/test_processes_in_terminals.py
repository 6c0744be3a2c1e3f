"""Processes in a terminal of their own, against a real toolrunner."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from doubles.host import Host, Stream
from mas_sandbox.guest import landlock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SIZE = (30, 100)


def ended(stream: Stream) -> tuple[int, str]:
    assert stream.result is not None
    return stream.result.exit_code, stream.result.code


def await_output(host: Host, stream: Stream, wanted: bytes) -> None:
    host.until(lambda: wanted in stream.stdout or stream.result)
    assert wanted in stream.stdout


@pytest.mark.parametrize("flags", [(), ("-landlock",)])
def test_a_terminal_is_its_controlling_one_with_the_size_that_was_asked_for(
    workspace: Path, flags: tuple[str, ...]
) -> None:
    if flags and not landlock.abi():
        pytest.skip("no Landlock here")
    show = "stty size; echo $TERM; test -t 0 -a -t 1 -a -t 2 && echo all; echo tty >/dev/tty"
    with Host(workspace, *flags) as host:
        stream = host.shell(show, pty=SIZE)
    assert stream.stdout == b"30 100\r\nxterm-256color\r\nall\r\ntty\r\n"
    assert (stream.stderr, ended(stream)) == (b"", (0, ""))


def test_its_kind_can_be_told_and_without_one_there_is_none(host: Host) -> None:
    assert host.shell("echo $TERM", pty=SIZE, env={"TERM": "dumb"}).stdout == b"dumb\r\n"
    assert host.shell("echo ${TERM-none}").stdout == b"none\n"


def test_a_resize_is_seen_and_signalled(host: Host) -> None:
    wait = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done"
    stream = host.start_shell(wait, pty=SIZE)
    await_output(host, stream, b"ready")
    host.resize(stream, 41, 132)
    assert host.finish(stream).stdout.endswith(b"41 132\r\n")


def test_a_resize_without_a_terminal_changes_nothing(host: Host) -> None:
    stream = host.start_process(["cat"])
    host.resize(stream, 41, 132)
    host.write_eof(stream)
    assert ended(host.finish(stream)) == (0, "")


def test_what_is_typed_is_echoed_and_read(host: Host) -> None:
    stream = host.start_shell('read line; echo "<$line>"', pty=SIZE)
    host.write(stream, b"typed\n")
    assert host.finish(stream).stdout == b"typed\r\n<typed>\r\n"


def test_the_interrupt_character_interrupts_the_foreground(host: Host) -> None:
    stream = host.start_shell(
        "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done", pty=SIZE
    )
    await_output(host, stream, b"ready")
    host.write(stream, b"\x03")
    await_output(host, stream, b"caught")
    assert ended(host.finish(stream)) == (3, "")


@pytest.mark.parametrize(("typed", "read"), [(b"line\n", b"line\n"), (b"half", b"half")])
def test_the_end_of_its_input_is_typed_where_lines_are_read(
    host: Host, typed: bytes, read: bytes
) -> None:
    stream = host.start_shell("stty -echo; echo ready; cat", pty=SIZE)
    await_output(host, stream, b"ready\r\n")
    host.write(stream, typed)
    host.write_eof(stream)
    assert host.finish(stream).stdout == b"ready\r\n" + read.replace(b"\n", b"\r\n")
    assert ended(stream) == (0, "")


def test_a_terminal_that_reads_no_lines_is_told_no_end(host: Host) -> None:
    stream = host.start_shell("stty raw -echo; echo ready; head -c 3 | od -An -tx1", pty=SIZE)
    await_output(host, stream, b"ready")
    host.write(stream, b"ab")
    host.write_eof(stream)
    host.take_for(0.2)
    assert stream.result is None
    host.cancel(stream)
    host.finish(stream)


def test_its_end_is_told_though_the_background_holds_the_terminal(host: Host) -> None:
    stream = host.shell("trap '' HUP; sleep 600 & echo left; exit 2", pty=SIZE)
    assert (stream.stdout, ended(stream)) == (b"left\r\n", (2, ""))


def test_a_large_output_comes_through_a_terminal_whole(host: Host) -> None:
    stream = host.shell("head -c 1000000 /dev/zero | tr '\\0' x", pty=SIZE)
    assert stream.stdout == b"x" * 1_000_000


def test_nobody_types_into_a_terminal_from_inside_with_its_owner_gone(host: Host) -> None:
    """The master is the toolrunner's alone: the process has its slave three times."""
    listing = "for f in /proc/self/fd/*; do readlink $f; done"
    stream = host.shell(listing, pty=SIZE)
    assert b"ptmx" not in stream.stdout


def test_a_signal_reaches_a_process_in_a_terminal(host: Host) -> None:
    stream = host.start_process(["sleep", "600"], pty=SIZE)
    host.until(lambda: stream.pid)
    host.signal(stream, signal.SIGTERM)
    assert ended(host.finish(stream)) == (143, "")
