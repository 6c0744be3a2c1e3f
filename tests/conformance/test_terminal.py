"""`mas-sandbox exec -it` and `shell`, driven through a real terminal."""

from __future__ import annotations

import os
import signal
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest

from live_operations import until
from mas_sandbox.cli.terminal import PLAIN
from mas_sandbox.sdk import Client, Sandbox
from running_daemon import TOKEN, RunningDaemon, daemon

# Draws on the alternate screen as an editor does, anew when the size changes, and shows keys.
FULL_SCREEN = r"""
import os, signal, sys, tty
def draw(*_):
    columns, rows = os.get_terminal_size()
    os.write(1, b"\x1b[2J\x1b[%d;1H[%d x %d]" % (rows, rows, columns))
tty.setraw(0)
signal.signal(signal.SIGWINCH, draw)
os.write(1, b"\x1b[?1049h")
draw()
while (key := os.read(0, 1)) != b"q":
    os.write(1, b"<%d>" % key[0])
os.write(1, b"\x1b[?1049l")
sys.exit(7)
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with daemon(tmp_path_factory.mktemp("terminal")) as running:
        yield running


@pytest.fixture(scope="module")
def place(running: RunningDaemon) -> Iterator[Sandbox]:
    with Sandbox.create(running.url, TOKEN) as made:
        yield made


class Terminal:
    """A person's terminal, in which one command runs."""

    def __init__(self, url: str, *words: str) -> None:
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        environment |= {"TERM": "xterm-test", "MAS_SANDBOX_URL": url, "MAS_SANDBOX_TOKEN": TOKEN}
        self.child: pexpect.spawn[bytes] = pexpect.spawn(
            sys.executable,
            ["-m", "mas_sandbox.cli.main", *words],
            env=environment,
            dimensions=(30, 100),
            timeout=20,
            preexec_fn=_ignore_nothing,
        )
        # pexpect waits before each send, for programs that flush what was typed.
        self.child.delaybeforesend = None
        self.settings = self._settings()

    def type(self, text: str) -> None:
        self.child.send(text)

    def shows(self, text: str | bytes) -> None:
        self.child.expect_exact(text)

    def status(self) -> int:
        """The command's exit status; the terminal's settings are what they were before."""
        self.child.expect(pexpect.EOF)
        assert self._settings() == self.settings
        self.child.wait()
        assert self.child.signalstatus is None
        return int(self.child.exitstatus)

    def is_raw(self) -> bool:
        return not self._settings()[3] & termios.ICANON

    def _settings(self) -> list[Any]:
        return termios.tcgetattr(self.child.child_fd)


def _ignore_nothing() -> None:
    """As after a login, whoever started these tests: nohup leaves SIGHUP ignored."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def terminal(url: str, *words: str) -> Iterator[Terminal]:
    opened = Terminal(url, *words)
    try:
        yield opened
    finally:
        opened.child.close(force=True)


def test_a_full_screen_program_a_resize_its_keys_and_its_status(
    running: RunningDaemon, place: Sandbox
) -> None:
    command = ["exec", "-it", place.id, "--", "python3", "-c", FULL_SCREEN]
    with terminal(running.url, *command) as seen:
        seen.shows(b"\x1b[?1049h\x1b[2J\x1b[30;1H[30 x 100]")
        assert seen.is_raw()
        seen.child.setwinsize(41, 123)
        seen.shows(b"\x1b[2J\x1b[41;1H[41 x 123]")
        seen.type("\x03\x1a\x04\x11\x13é")  # Ctrl-C, Z, D, Q, S
        seen.shows("<3><26><4><17><19><195><169>")
        seen.type("q")
        seen.shows(b"\x1b[?1049l")
        assert seen.status() == 7


def test_ctrl_c_in_a_shell_ends_what_runs_and_not_the_shell(
    running: RunningDaemon, place: Sandbox
) -> None:
    with terminal(running.url, "shell", place.id, "-e", "A=b c") as seen:
        seen.type("PS1='rea''dy> '\r")
        seen.shows("ready> ")
        seen.type("echo $A; echo $TERM; stty size\r")
        seen.shows("b c\r\n")
        seen.shows("xterm-test\r\n30 100\r\n")
        # A program says it, which is in the foreground by then.
        seen.type("sh -c 'echo begun-$((1+1)); exec sleep 1000'; echo not reached\r")
        seen.shows("begun-2\r\n")
        seen.type("\x03")
        seen.shows("ready> ")
        seen.type("echo last was $?\r")
        seen.shows("last was 130")
        seen.type("exit 5\r")
        assert seen.status() == 5


def test_a_fresh_shell_takes_its_sandbox_with_it(running: RunningDaemon) -> None:
    with terminal(running.url, "shell", "-m", "made=by a shell") as seen:
        seen.child.expect(rb"(sb_\S+) \(jail\) ends when you leave")
        sandbox = Sandbox.connect(seen.child.match[1].decode(), running.url, TOKEN)
        assert sandbox.info.metadata == {"made": "by a shell"}
        seen.type("exit\r")
        assert seen.status() == 0
    assert sandbox.refresh().state == "ended"
    sandbox.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_client_that_is_told_to_end_restores_the_terminal_and_ends_the_program(
    running: RunningDaemon, place: Sandbox, number: signal.Signals
) -> None:
    tag = f"told-{number}"
    command = ["exec", "-it", "--tag", tag, place.id, "--", "sh", "-c", "echo up; exec cat"]
    with terminal(running.url, *command) as seen:
        seen.shows("up")
        assert seen.is_raw()
        os.kill(seen.child.pid, number)
        seen.shows(PLAIN)
        assert seen.status() == 128 + number
    assert place.processes.get(tag).wait(10).state == "exited"


def test_a_client_that_was_stopped_is_raw_again_when_it_goes_on(
    running: RunningDaemon, place: Sandbox
) -> None:
    with terminal(running.url, "exec", "-it", place.id, "--", "sh", "-c", "echo up; cat") as seen:
        seen.shows("up\r\n")
        termios.tcsetattr(seen.child.child_fd, termios.TCSANOW, seen.settings)  # as a shell does
        os.kill(seen.child.pid, signal.SIGCONT)
        until(seen.is_raw)
        seen.type("x\r")  # the program's terminal echoes it, then cat does
        seen.shows("x\r\nx\r\n")
        seen.type("\x04")
        assert seen.status() == 0


def test_a_daemon_that_dies_is_told_of_on_a_terminal_that_works(tmp_path: Path) -> None:
    with (
        daemon(tmp_path, runtime="local") as mine,
        Client(mine.url, TOKEN) as client,
        terminal(
            *(mine.url, "exec", "-it", client.open_sandbox().sandbox_id),
            *("sh", "-c", "echo up; cat"),
        ) as seen,
    ):
        seen.shows("up")
        mine.process.kill()
        seen.shows(PLAIN)
        seen.shows("mas-sandbox: interrupted: ")
        assert seen.status() == 255


def test_without_a_terminal_of_its_own_ctrl_c_is_the_programs_and_then_ours(
    running: RunningDaemon, place: Sandbox
) -> None:
    words = ["exec", "--tag", "stubborn", place.id, "--", "sh", "-c"]
    script = "trap 'echo heard' INT; printf 'up\\033\\n'; while :; do sleep 0.05; done"
    with terminal(running.url, *words, script) as seen:
        seen.shows(r"up\x1b")  # which is shown, not obeyed
        seen.type("\x03")
        seen.shows("heard")
        seen.type("\x03")
        assert seen.status() == 130
    assert place.processes.get("stubborn").wait(10).signal == 9


def test_python_line_by_line(running: RunningDaemon, place: Sandbox) -> None:
    with terminal(running.url, "code", place.id) as seen:
        seen.shows(">>> ")
        seen.type("def double(x):\r")
        seen.shows("... ")
        seen.type("    return 2 * x\r")
        seen.shows("... ")
        seen.type("\r")
        seen.shows(">>> ")
        seen.type("double(21)\r")
        seen.shows("\n42\r\n")
        seen.shows(">>> ")
        seen.type("import time; print('be' + 'gun'); time.sleep(1000)\r")
        seen.shows("begun\r\n")
        seen.type("\x03")
        seen.shows("KeyboardInterrupt")
        seen.shows(">>> ")
        seen.type("double(4)\r")
        seen.shows("\n8\r\n")
        seen.shows(">>> ")
        seen.type("\x04")
        assert seen.status() == 0
