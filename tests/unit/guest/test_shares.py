"""What passes between /dev/fuse and the channel, with a socket that keeps messages apart."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from mas_sandbox.guest.connection import Connection
from mas_sandbox.guest.shares import Share
from mas_sandbox.wire.credit import INITIAL
from mas_sandbox.wire.frames import CHUNK, FROM_GUEST, FrameParser, Kind, ProtocolError

STREAM = 0xFFFFFF00


class Between:
    """A share, the kernel on one side of it and the host on the other."""

    def __init__(self) -> None:
        self._ours, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.host, channel = socket.socketpair()
        for end in (self._ours, self.host):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            end.setblocking(False)
        device.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        device.setblocking(False)
        self.connection = Connection(channel.detach())
        self.share = Share(self.connection, STREAM, device.detach(), bytearray(1 << 21))
        self._parser = FrameParser(FROM_GUEST)

    def close(self) -> None:
        self.share.close()
        self.connection.close()
        self._ours.close()
        self.host.close()

    def ask(self, request: bytes) -> None:
        self._ours.send(request)
        self.share.pump()

    def answers(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self._ours.recv(4 << 20))
            except BlockingIOError:
                return found

    def told(self) -> list[tuple[Kind, bytes]]:
        """The frames that have reached the host."""
        self.connection.flush()
        try:
            data = self.host.recv(4 << 20)
        except BlockingIOError:
            return []
        return [(kind, payload) for kind, _, payload in self._parser.feed(data)]


@pytest.fixture
def between() -> Iterator[Between]:
    made = Between()
    yield made
    made.close()


def answer(size: int) -> bytes:
    return struct.pack("=I", size) + os.urandom(size - 4)


def test_a_request_is_passed_on_whole(between: Between) -> None:
    between.ask(b"a request")
    assert between.told() == [(Kind.DATA, b"a request")]


def test_answers_are_cut_apart_and_put_together(between: Between) -> None:
    answers = [answer(16), answer(100), answer(200_000), answer(16), answer(40)]
    stream = b"".join(answers)
    for start in range(0, len(stream), 30_011):
        between.share.take(stream[start : start + 30_011])
    assert between.answers() == answers
    between.share.take(answers[1])
    assert between.answers() == [answers[1]]


def test_an_answer_in_single_bytes(between: Between) -> None:
    whole = answer(20)
    for byte in whole:
        between.share.take(bytes([byte]))
    assert between.answers() == [whole]


def test_a_large_request_waits_for_credit_and_no_other_overtakes_it(between: Between) -> None:
    large = os.urandom(INITIAL + 100_000)
    between.ask(large)
    assert not between.share.wanted
    between.ask(b"the next")
    got = b""
    for _ in range(20):
        for kind, payload in between.told():
            assert kind is Kind.DATA
            assert len(payload) <= CHUNK
            got += payload
        between.share.send()
    assert got == large[:INITIAL]
    between.share.granted(struct.pack("!I", INITIAL))
    between.share.pump()
    between.share.pump()
    assert got + b"".join(payload for _, payload in between.told()) == large + b"the next"


def test_credit_is_given_back_for_what_was_answered(between: Between) -> None:
    for _ in range(8):
        between.share.take(answer(INITIAL // 8))
    granted = [struct.unpack("!I", payload)[0] for kind, payload in between.told()]
    assert sum(granted) == INITIAL


@pytest.mark.parametrize("size", [0, 15, (1 << 20) + 4097, 2**32 - 1])
def test_an_answer_that_no_kernel_takes_is_a_breach(between: Between, size: int) -> None:
    with pytest.raises(ProtocolError):
        between.share.take(struct.pack("=I", size) + bytes(20))


def test_the_hosts_end_of_a_share_in_use_is_a_breach(between: Between) -> None:
    with pytest.raises(ProtocolError):
        between.share.take(b"")


def test_an_answer_beyond_credit_is_a_breach(between: Between) -> None:
    with pytest.raises(ProtocolError):
        between.share.take(answer(INITIAL + 1))
