"""A toolrunner that is called, as in a virtual machine: one host after the other."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.host import PATIENCE, Link, Stream, ToolrunnerEnded, start_toolrunner
from mas_sandbox.wire.frames import Kind


class Listening:
    """A toolrunner with a listening socket of its own."""

    def __init__(self, workspace: Path) -> None:
        self.path = workspace.parent / "channel"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.path))
            listening.listen()
            number = listening.fileno()
            self.process = start_toolrunner(workspace, "-listen-fd", str(number), pass_fds=[number])

    def link(self) -> Link:
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(str(self.path))
        return Link(connected)

    def welcomed(self) -> Link:
        link = self.link()
        link.welcome({})
        return link


@pytest.fixture
def toolrunner(workspace: Path) -> Iterator[Listening]:
    started = Listening(workspace)
    yield started
    started.process.kill()
    started.process.communicate()


def pid_of(link: Link, stream: Stream) -> int:
    link.until(lambda: b"\n" in stream.stdout)
    return int(stream.stdout.split()[0])


def usage(*flags: str, workspace: Path) -> str:
    process = start_toolrunner(workspace, *flags)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 64
    return stderr.decode()


def test_each_connection_begins_with_hello_and_needs_its_own_welcome(
    toolrunner: Listening,
) -> None:
    for _ in range(3):
        link = toolrunner.link()
        link.until(lambda link=link: link.hello is not None)
        link.welcome({})
        assert link.call("calculator", {"expression": "6*7"}).value == 42
        link.socket.close()
    link = toolrunner.link()
    link.start("calculator", {"expression": "1"})
    with pytest.raises(ToolrunnerEnded):
        link.until(lambda: False)
    assert toolrunner.welcomed().bash("echo next").stdout == b"next\n"


def test_the_end_of_a_connection_ends_its_processes_and_what_they_left(
    toolrunner: Listening,
) -> None:
    link = toolrunner.welcomed()
    left = int(link.shell("setsid sleep 600 >/dev/null 2>&1 & echo $!").stdout)
    running = pid_of(link, link.start_shell("echo $$; sleep 600"))
    link.socket.close()
    following = toolrunner.welcomed()
    assert following.shell("echo next").stdout == b"next\n"
    for pid in (left, running):
        assert not Path(f"/proc/{pid}").exists()


def test_the_end_of_a_connection_ends_its_calls(toolrunner: Listening) -> None:
    link = toolrunner.welcomed()
    pid = pid_of(link, link.start_bash("echo $$; (setsid sleep 600 &); sleep 600"))
    link.socket.close()
    following = toolrunner.welcomed()
    assert not Path(f"/proc/{pid}").exists()
    assert following.bash("true").result is not None


def test_a_second_connection_is_closed_at_once(toolrunner: Listening) -> None:
    first = toolrunner.welcomed()
    slow = first.start_bash("sleep 0.3; echo undisturbed")
    for _ in range(3):
        with pytest.raises(ToolrunnerEnded):
            toolrunner.link().until(lambda: False)
    assert first.finish(slow).stdout == b"undisturbed\n"


def test_a_host_that_breaks_the_protocol_loses_its_connection_only(
    toolrunner: Listening,
) -> None:
    link = toolrunner.welcomed()
    link.socket.sendall(b"\xff" * 9)
    with pytest.raises(ToolrunnerEnded):
        link.until(lambda: False)
    assert toolrunner.welcomed().bash("echo served").stdout == b"served\n"


def test_goodbye_ends_the_toolrunner(toolrunner: Listening) -> None:
    toolrunner.welcomed().send(Kind.GOODBYE, 0)
    assert toolrunner.process.wait(PATIENCE) == 0


def test_sigterm_ends_it_while_it_waits_and_while_it_serves(workspace: Path) -> None:
    for waiting in (True, False):
        (workspace.parent / "channel").unlink(missing_ok=True)
        started = Listening(workspace)
        link = started.welcomed()
        if waiting:
            link.socket.close()
            time.sleep(0.1)
        started.process.terminate()
        _, stderr = started.process.communicate(timeout=PATIENCE)
        assert (started.process.returncode, stderr) == (0, b"")


def test_connections_leave_no_descriptor_behind(toolrunner: Listening) -> None:
    counted = []
    for _ in range(3):
        link = toolrunner.welcomed()
        counted.append(len(list(Path(f"/proc/{toolrunner.process.pid}/fd").iterdir())))
        link.socket.close()
    assert len(set(counted)) == 1


def test_a_channel_that_cannot_be_opened_is_a_worded_usage_error(workspace: Path) -> None:
    assert "give one of" in usage(workspace=workspace)
    assert "give one of" in usage("-fd", "3", "-port", "5000", workspace=workspace)
    assert "-port five" in usage("-port", "five", workspace=workspace)
    assert "-listen-fd 99" in usage("-listen-fd", "99", workspace=workspace)
    assert "No such file" in usage("-serial", "/dev/absent", workspace=workspace)


def test_a_stream_that_does_not_listen_is_a_usage_error(workspace: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        number = theirs.fileno()
        process: subprocess.Popen[bytes] = start_toolrunner(
            workspace, "-listen-fd", str(number), pass_fds=[number]
        )
        _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 64
    assert b"does not listen" in stderr
