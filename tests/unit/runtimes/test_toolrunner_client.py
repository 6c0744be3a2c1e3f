"""mas-toolrunner-client against a real toolrunner, and against everything that is not one."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from doubles.host import start_toolrunner
from doubles.vsock_socket import VsockSocket
from mas_sandbox.wire.frames import HEADER, Kind, encode

CALL = {"tool": "calculator", "args": {"expression": "15 * 8 + 7"}}


def client(*flags: str, call: Any = CALL, stdin: str | None = None) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    ran = subprocess.run(
        [sys.executable, "-m", "mas_sandbox.runtimes.toolrunner_client", *flags],
        input=json.dumps(call) if stdin is None else stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


def failure(*flags: str) -> tuple[str, str]:
    """The code and the message of a call that has no result."""
    status, stdout, stderr = client(*flags)
    assert status == 1
    error = json.loads(stdout)["error"]
    assert stderr == f"mas-toolrunner-client: {error['code']}: {error['message']}\n"
    return error["code"], error["message"]


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Path]:
    """The Unix socket of a toolrunner that listens."""
    workspace, path = tmp_path / "workspace", tmp_path / "guest"
    workspace.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        number = listening.fileno()
        process = start_toolrunner(workspace, "-listen-fd", str(number), pass_fds=[number])
    yield path
    process.kill()
    process.communicate()


@pytest.fixture
def vsock(guest: Path, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "vsock"
    with VsockSocket(path, {5000: guest, 6000: guest}):
        yield path


def test_a_call_over_firecrackers_socket(vsock: Path) -> None:
    for flags in ((), ("--port", "6000"), ("-port=6000", "-timeout=20")):
        status, stdout, stderr = client("--vsock", str(vsock), *flags)
        assert (status, stderr) == (0, "")
        assert json.loads(stdout) == {
            "status": "ok",
            "exit_code": 0,
            "stderr": "",
            "result": 127,
        }


def test_a_program_is_ok_whatever_its_exit_code(guest: Path) -> None:
    call = {"tool": "bash", "args": {"command": "echo $A; echo err >&2; exit 3"}, "env": {"A": "b"}}
    status, stdout, _ = client("--serial", str(guest), call=call)
    assert status == 0
    assert json.loads(stdout) == {
        "status": "ok",
        "exit_code": 3,
        "stderr": "err\n",
        "result": "b\n",
    }


def test_much_output_arrives_whole(guest: Path) -> None:
    call = {
        "tool": "bash",
        "args": {"command": "head -c 900000 /dev/zero | tr '\\0' x"},
    }
    _, stdout, _ = client("--serial", str(guest), call=call)
    assert json.loads(stdout)["result"] == "x" * 900_000


def test_a_tools_failure_is_its_own(guest: Path) -> None:
    call = {"tool": "calculator", "args": {"expression": "1/0"}}
    status, stdout, _ = client("--serial", str(guest), call=call)
    assert status == 1
    reply = json.loads(stdout)
    assert (reply["status"], reply["error"]["code"]) == ("error", "tool_failed")


def test_the_timeout_ends_the_call_in_the_guest(guest: Path) -> None:
    call = {"tool": "bash", "args": {"command": "sleep 60"}}
    started = time.monotonic()
    status, stdout, _ = client("--serial", str(guest), "--timeout", "1", call=call)
    assert time.monotonic() - started < 4
    assert (status, json.loads(stdout)["error"]["code"]) == (1, "timeout")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ((), "--vsock PATH"),
        (("--vsock", "/x", "--serial", "/y"), "--vsock PATH"),
        (("--serial", "/y", "--port", "1"), "--vsock PATH"),
        (("--vsock",), "needs a value"),
        (("--vsock", "/x", "--port", "no"), "--port no"),
        (("--vsock", "/x", "--port", "1.5"), "--port 1.5"),
        (("--vsock", "/x", "--timeout", "-1"), "--timeout -1"),
        (("--vsock", "/x", "--timeout", "nan"), "--timeout nan"),
        (("--bogus",), "unknown argument"),
    ],
)
def test_wrong_flags_are_status_2_and_one_line(flags: tuple[str, ...], complaint: str) -> None:
    status, stdout, stderr = client(*flags)
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)
    assert complaint in stderr


@pytest.mark.parametrize(
    "stdin",
    [
        *("", "[]", "{", '{"args": {}}', '{"tool": 1}', '{"tool": "x", "tool": "y"}'),
        *(
            '{"tool": "x", "more": 1}',
            '{"tool": "x", "args": 1}',
            '{"tool": "x", "paths": [["a"]]}',
        ),
    ],
)
def test_what_is_no_call_is_status_2(stdin: str) -> None:
    status, stdout, stderr = client("--vsock", "/x", stdin=stdin)
    assert (status, stdout, stderr.count("\n")) == (2, "", 1)


def test_help_shows_an_example() -> None:
    status, stdout, _ = client("--help")
    assert status == 0
    assert 'echo \'{"tool"' in stdout


def test_nobody_listens(tmp_path: Path, vsock: Path) -> None:
    assert failure("--vsock", str(tmp_path / "absent"))[0] == "guest_lost"
    dead = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(dead))
    assert "nobody listens" in failure("--vsock", str(dead))[1]
    code, message = failure("--vsock", str(vsock), "--port", "7")
    assert code == "guest_lost"
    assert "port 7" in message


Serving = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    """Starts a server at a socket that does one thing with the first who calls."""
    path = tmp_path / "server"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    threads: list[threading.Thread] = []

    def serve(act: Callable[[socket.socket], None]) -> str:
        def run() -> None:
            caller, _ = listening.accept()
            with caller:
                caller.settimeout(10)
                try:
                    act(caller)
                    while caller.recv(65536):
                        pass
                except OSError:
                    return

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return str(path)

    yield serve
    for thread in threads:
        thread.join(15)
    listening.close()


def test_a_socket_that_is_not_firecrackers(serving: Serving) -> None:
    path = serving(lambda caller: caller.sendall(b"HTTP/1.1 400 Bad Request\r\n" * 9))
    code, message = failure("--vsock", path)
    assert code == "guest_protocol_error"
    assert "HTTP/1.1" in message


@pytest.mark.parametrize("line", [b"OK\n", b"OK x\n", b"ok 5\n", b"OK 5 6\n", b"O" * 200])
def test_a_wrong_ok_is_refused(serving: Serving, line: bytes) -> None:
    assert failure("--vsock", serving(lambda caller: caller.sendall(line)))[0] == (
        "guest_protocol_error"
    )


def test_silence_ends_at_the_timeout(serving: Serving) -> None:
    def nothing(caller: socket.socket) -> None:
        return

    started = time.monotonic()
    assert failure("--vsock", serving(nothing), "--timeout", "0.5")[0] == "guest_lost"
    assert failure("--serial", serving(nothing), "--timeout", "0.5")[0] == "timeout"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff" * 64,
        struct.pack("!IBI", 0xFFFFFFFF, Kind.STDOUT, 1),
        encode(Kind.STDOUT, 1, b"before the call"),
        encode(Kind.RESULT, 1, b"{}"),
        encode(Kind.HELLO, 0, b"[]"),
        encode(Kind.READY, 0) + encode(Kind.STDOUT, 9, b"x"),
        encode(Kind.READY, 0) + encode(Kind.RESULT, 1, b"{}"),
        encode(Kind.READY, 0) + encode(Kind.PONG, 0),
    ],
)
def test_garbage_is_a_protocol_error(serving: Serving, sent: bytes) -> None:
    path = serving(lambda caller: caller.sendall(sent))
    assert failure("--serial", path)[0] == "guest_protocol_error"


def test_a_frame_that_never_ends_is_not_waited_for(serving: Serving) -> None:
    def trickle(caller: socket.socket) -> None:
        caller.sendall(HEADER.pack(2**20, Kind.HELLO, 0))
        while True:
            caller.sendall(b"x")
            time.sleep(0.05)

    started = time.monotonic()
    assert failure("--serial", serving(trickle), "--timeout", "1")[0] == "timeout"
    assert time.monotonic() - started < 4


def test_output_beyond_the_limit_and_a_closed_connection(serving: Serving) -> None:
    def flood(caller: socket.socket) -> None:
        caller.sendall(encode(Kind.READY, 0))
        for _ in range(40):
            caller.sendall(encode(Kind.STDOUT, 1, bytes(65536)))

    assert failure("--serial", serving(flood))[0] == "guest_protocol_error"
    path = serving(lambda caller: caller.shutdown(socket.SHUT_RDWR))
    assert failure("--serial", path)[0] == "guest_lost"
