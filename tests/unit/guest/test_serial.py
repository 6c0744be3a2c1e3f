"""A serial device as channel. A pseudo terminal stands for the port; that a host can come
back to a real one is seen in a machine (tests/conformance/test_guest_in_vm.py)."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from doubles.host import Link, start_toolrunner
from mas_sandbox.guest.connection import SerialConnection
from mas_sandbox.guest.poller import Poller
from mas_sandbox.wire.frames import Kind

pytestmark = pytest.mark.skipif(not hasattr(select, "epoll"), reason="virtio-serial is Linux's")


class Port:
    """A toolrunner on a terminal; `link` speaks through its other end."""

    def __init__(self, workspace: Path) -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)
        self.process: Popen[bytes] = start_toolrunner(workspace, "-serial", os.ttyname(slave))
        ours, theirs = socket.socketpair()
        self.link = Link(ours)
        self._theirs = theirs
        self._carriers = [
            threading.Thread(target=_carry, args=ends, daemon=True)
            for ends in ((self.master, theirs.fileno()), (theirs.fileno(), self.master))
        ]
        for carrier in self._carriers:
            carrier.start()
        self.link.welcome({})
        os.close(slave)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.link.socket.close()
        for carrier in self._carriers:
            carrier.join(5)
        self._theirs.close()
        os.close(self.master)


def _carry(source: int, sink: int) -> None:
    try:
        while data := os.read(source, 65536):
            while data:
                data = data[os.write(sink, data) :]
    except OSError:
        return


@pytest.fixture
def port(workspace: Path) -> Iterator[Port]:
    started = Port(workspace)
    yield started
    started.close()


def test_calls_are_served_over_a_serial_device(port: Port) -> None:
    assert port.link.hello is not None
    assert port.link.call("calculator", {"expression": "6*7"}).value == 42
    flood = port.link.bash("head -c 700000 /dev/zero")
    assert len(flood.stdout) == 700_000


def test_goodbye_ends_it(port: Port) -> None:
    port.link.send(Kind.GOODBYE, 0)
    assert port.process.wait(10) == 0


@pytest.fixture
def hung_up(tmp_path: Path) -> Iterator[tuple[SerialConnection, Path]]:
    """A FIFO tells of an absent peer as the port does: reads of 0 bytes, and POLLHUP."""
    path = tmp_path / "port"
    os.mkfifo(path)
    connection = SerialConnection(str(path))
    # Opened for both ways it would be its own peer.
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.dup2(reading, connection._descriptor)
    os.close(reading)
    connection._bell.register(
        connection._descriptor, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
    )
    os.close(os.open(path, os.O_WRONLY))
    yield connection, path
    connection.close()


def test_without_a_host_it_waits_and_does_not_end(
    hung_up: tuple[SerialConnection, Path],
) -> None:
    connection, path = hung_up
    poller = Poller()

    def heard(patience_ms: float) -> list[bytes | None]:
        connection.watch(poller, lambda _: said.append(connection.read()))
        said: list[bytes | None] = []
        poller.serve(poller.wait(patience_ms))
        return said

    assert heard(0) == [None]
    for _ in range(2):
        started = time.monotonic()
        assert heard(50) == []
        assert time.monotonic() - started > 0.04
    writer = os.open(path, os.O_WRONLY)
    os.write(writer, b"back")
    assert heard(5000) == [b"back"]
    assert heard(0) == []
    os.close(writer)
    assert heard(5000) == [None]
    assert heard(0) == []


def test_a_host_that_comes_between_the_look_and_the_wait_is_seen(
    hung_up: tuple[SerialConnection, Path],
) -> None:
    connection, path = hung_up
    assert connection.read() is None
    writer = os.open(path, os.O_WRONLY)
    os.write(writer, b"early")
    poller = Poller()
    connection.watch(poller, lambda _: None)
    assert poller.wait(5000)
    assert connection.read() == b"early"
    os.close(writer)
