"""sandbox.ports and connect: servers of a sandbox are found and spoken to."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from doubles.inside import Ran, inside
from mas_sandbox.guest.files import Files


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files([("/workspace", "rw")], str(tmp_path))


def serve(
    answer: Callable[[socket.socket], None], address: str = "127.0.0.1"
) -> tuple[socket.socket, threading.Thread]:
    """One connection."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.create_server((address, 0), family=family)

    def run() -> None:
        connected, _ = listening.accept()
        with connected:
            answer(connected)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return listening, thread


def echo(connected: socket.socket) -> None:
    while data := connected.recv(65536):
        connected.sendall(data)


def connect(files: Files, listening: socket.socket, data: bytes = b"") -> Ran:
    with listening:
        return inside(files, "sandbox.connect", data, port=listening.getsockname()[1])


def test_listening_ports_are_listed_with_their_process(files: Files) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        found = inside(files, "sandbox.ports").value
        (ours,) = [entry for entry in found if entry["port"] == port]
        # Its process is this one, or the fork of it that asked and holds the socket too.
        assert (ours["address"], ours["pid"] > 0) == ("127.0.0.1", True)
        connected = socket.create_connection(("127.0.0.1", port))
        connected.close()
    assert port not in [entry["port"] for entry in inside(files, "sandbox.ports").value]


def test_an_address_of_version_six_is_listed_and_reached(files: Files) -> None:
    if not socket.has_dualstack_ipv6():
        return
    listening, _ = serve(echo, "::1")
    port = listening.getsockname()[1]
    found = inside(files, "sandbox.ports").value
    assert ("::1", port) in [(entry["address"], entry["port"]) for entry in found]
    assert connect(files, listening, b"hello").stdout == b"hello"


def test_what_is_written_arrives_and_what_is_answered_comes_back(files: Files) -> None:
    data = os.urandom(5_000_000)
    done = connect(files, serve(echo)[0], data)
    assert done.stdout == data
    assert done.value == {"sent": len(data), "received": len(data)}


def test_the_end_of_the_input_ends_one_direction_alone(files: Files) -> None:
    def answer(connected: socket.socket) -> None:
        received = b""
        while data := connected.recv(65536):
            received += data
        connected.sendall(b"you said " + received)

    assert connect(files, serve(answer)[0], b"hello").stdout == b"you said hello"


def test_it_ends_when_the_server_has_said_all(files: Files) -> None:
    """Though the input goes on."""
    listening, _ = serve(lambda connected: connected.sendall(b"bye"))
    done = connect(files, listening, b"x" * 10_000_000)
    assert done.stdout in (b"bye", b"")  # it may be reset: there was more to read
    assert done.code in ("", "tool_failed")


def test_where_nothing_listens_the_reason_is_not_found(files: Files) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    assert inside(files, "sandbox.connect", port=port).reason == "not_found"
    for port in (0, 65536, "80"):
        assert inside(files, "sandbox.connect", port=port).code == "invalid_request"
