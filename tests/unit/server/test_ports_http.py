"""Requests to a server inside are passed on, and its answers come back, whatever either is."""

from __future__ import annotations

import json
import os
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.http_door import read_all
from doubles.ports_place import BEARER, OK, Answered, Place, ports_place
from mas_sandbox.server.http import ports_exchange, uploads
from mas_sandbox.server.live import ports as ports_module

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ports_place(tmp_path_factory.mktemp("daemon")) as made:
        yield made


@pytest.fixture
def place(shared_place: Place) -> Place:
    return shared_place.anew()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Place]:
    """One that a test may end."""
    with ports_place(tmp_path) as made:
        yield made


def quiet(place: Place) -> None:
    """Wait until nothing runs in the sandbox."""
    deadline = time.monotonic() + 10
    while place.guest.streams:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def problem(answer: Answered) -> tuple[int, str]:
    return answer.status, json.loads(answer.body)["error"]["code"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_every_method_is_passed_on_as_it_was_written(place: Place, method: str) -> None:
    answer = place.ask(f"{method} {place.prefix}/a%2Fb/../c?x=%41&&y", BEARER, "x-own: 1")
    line, headers, _ = place.heard()
    assert line == f"{method} /a%2Fb/../c?x=%41&&y HTTP/1.1"
    assert headers["x-own"] == ["1"]
    assert headers["host"] == [f"localhost:{place.server.port}"]
    assert headers["x-forwarded-prefix"] == [place.prefix]
    assert headers["x-forwarded-host"] == ["localhost"]
    assert (answer.status, answer.body) == (200, b"" if method == "HEAD" else b"hello")
    assert answer.header("content-length") == "5"
    quiet(place)


def test_what_concerns_one_connection_stays_on_it(place: Place) -> None:
    place.server.answer = (
        b"HTTP/1.1 200 OK\r\nConnection: x-gone\r\nX-Gone: 1\r\nKeep-Alive: 1\r\n"
        b"Upgrade: h2c\r\nX-Kept: 1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n"
        b"5\r\nhello\r\n0\r\nx-trailer: 1\r\n\r\n"
    )
    sent = ["connection: x-mine, host", "x-mine: 1", "te: trailers", "upgrade: h2c", "via: x"]
    sent += ["x-forwarded-for: 1.2.3.4", "x-real-ip: 1.2.3.4", "forwarded: for=1.2.3.4"]
    answer = place.ask(f"GET {place.prefix}/", BEARER, *sent)
    assert answer.body.endswith(b"5\r\nhello\r\n0\r\n\r\n")
    assert "x-kept" in answer.headers
    assert not {"x-gone", "keep-alive", "upgrade", "content-length"} & set(answer.headers)
    _, headers, _ = place.heard()
    gone = {"x-mine", "te", "upgrade", "via", "x-forwarded-for", "x-real-ip", "forwarded"}
    assert not gone & set(headers)
    assert headers["connection"] == ["close"]


def test_bodies_are_framed_anew(place: Place) -> None:
    line = f"POST {place.prefix}/"
    place.ask(line, BEARER, body=b"hello")
    assert (place.heard()[1]["content-length"], place.heard()[2]) == (["5"], b"hello")
    chunks = b"2;ext=1\r\nhe\r\n3\r\nllo\r\n0\r\nx-trailer: 1\r\n\r\n"
    place.ask(line, BEARER, "transfer-encoding: chunked", "expect: 100-continue", body=chunks)
    _, headers, body = place.heard()
    assert "content-length" not in headers
    assert "expect" not in headers
    assert body.endswith(b"0\r\n\r\n")
    assert b"ext" not in body
    assert b"trailer" not in body


SMUGGLED = [
    ("content-length: 5", "transfer-encoding: chunked"),
    ("content-length: 5", "content-length: 6"),
    ("transfer-encoding: chunked", "transfer-encoding: identity"),
    ("transfer-encoding: xchunked",),
    ("content-length: +5",),
]


@pytest.mark.parametrize("headers", SMUGGLED)
def test_framing_that_can_be_read_in_two_ways_reaches_no_server(
    place: Place, headers: tuple[str, ...]
) -> None:
    head = "\r\n".join([f"POST {place.prefix}/ HTTP/1.1", "host: localhost", BEARER, *headers])
    body = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
    answer = place.door.send(head.encode() + b"\r\n\r\n" + body)
    # What was not read resets the connection, which may take the answer with it.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")
    assert place.ask(f"GET {place.prefix}/last", BEARER).body == b"hello"
    assert [heard.split(b" ")[1] for heard in place.server.heard if heard] == [b"/last"]


def test_answers_without_a_body_have_none(place: Place) -> None:
    for status in (204, 304):
        place.server.answer = b"HTTP/1.1 %d X\r\nContent-Length: 3\r\nEtag: x\r\n\r\n" % status
        answer = place.ask(f"GET {place.prefix}/", BEARER)
        assert (answer.status, answer.body) == (status, b"")
        assert not {"content-length", "transfer-encoding"} & set(answer.headers)
    place.server.answer = b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\n" + OK
    assert place.ask(f"GET {place.prefix}/", BEARER).body == b"hello"
    place.server.answer = b"HTTP/1.0 200 OK\r\n\r\nuntil the end"
    assert b"until the end" in place.ask(f"GET {place.prefix}/", BEARER).body


NONSENSE = {
    "nothing at all": b"",
    "no HTTP": b"SSH-2.0-x\r\n",
    "half a head": b"HTTP/1.1 200 OK\r\nx: ",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "a switch that nobody asked for": b"HTTP/1.1 101 S\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "no such status": b"HTTP/1.1 999 X\r\n\r\n",
    "control characters": b"HTTP/1.1 200 OK\r\nx: a\x01b\r\n\r\n",
    "an endless head": b"HTTP/1.1 200 OK\r\nx: " + b"x" * 200_000,
}


@pytest.mark.parametrize("what", NONSENSE)
def test_an_answer_that_makes_no_sense_is_a_502(place: Place, what: str) -> None:
    place.server.answer = NONSENSE[what]
    assert problem(place.ask(f"GET {place.prefix}/", BEARER)) == (502, "tool_failed")
    quiet(place)


def test_where_nothing_listens_it_is_a_404_and_what_is_no_port_is_none(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert problem(place.ask(f"GET {place.url}/ports/{port}/", BEARER)) == (404, "not_found")
    for port in ("0", "65536", "x", "080"):
        assert place.ask(f"GET {place.url}/ports/{port}/", BEARER).status == 404
    assert place.ask(f"TRACE {place.prefix}/", BEARER).status == 405
    assert place.server.heard == []


def test_an_answer_that_breaks_off_is_seen_to(place: Place) -> None:
    place.server.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello"
    assert place.ask(f"GET {place.prefix}/", BEARER).body == b"hello"
    place.server.answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    assert place.ask(f"GET {place.prefix}/", BEARER).body == b"5\r\nhello\r\n"


def test_the_root_has_a_slash(place: Place) -> None:
    moved = place.ask(f"GET {place.prefix}?a=1", BEARER)
    assert (moved.status, moved.header("location")) == (307, f"{place.prefix}/?a=1")


def test_an_answer_may_come_before_the_whole_request(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "_LINGER_S", 0.1)
    place.server.eager = True
    head = f"POST {place.prefix}/ HTTP/1.1\r\nhost: localhost\r\n{BEARER}\r\n"
    with place.door.connect() as client:
        client.sendall(head.encode() + b"content-length: 100\r\n\r\nthe first half")
        assert b"hello" in read_all(client)
    quiet(place)


def test_bodies_go_through_as_fast_as_they_are_taken_with_flat_memory(place: Place) -> None:
    size = 96 * MIB

    def flood(connected: socket.socket) -> None:
        connected.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // MIB):
            connected.sendall(bytes(MIB))

    place.server.answer = flood
    line = f"GET {place.prefix}/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{BEARER}\r\n"
    with place.door.connect() as client:
        client.sendall(line.encode() + b"\r\n")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        time.sleep(0.3)  # nobody reads: whatever is going to pile up does
        total = 0
        while data := client.recv(MIB):
            total += len(data)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert total > size
    assert grown < 24 * 1024


def test_a_large_request_arrives_whole(place: Place) -> None:
    content = os.urandom(5 * MIB)
    assert place.ask(f"PUT {place.prefix}/", BEARER, body=content).status == 200
    assert place.heard()[2] == content


def test_a_client_that_goes_away_ends_its_connection(place: Place) -> None:
    ended: list[bytes] = []

    def wait(connected: socket.socket) -> None:
        ended.append(connected.recv(1))

    place.server.answer = wait
    with place.door.connect() as client:
        line = f"GET {place.prefix}/ HTTP/1.1\r\nhost: localhost\r\n{BEARER}\r\n\r\n"
        client.sendall(line.encode())
        while not place.guest.streams:
            time.sleep(0.01)
    quiet(place)
    deadline = time.monotonic() + 10
    while not ended:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_never_answers_is_a_504(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports_exchange, "ANSWER_S", 0.2)
    place.server.answer = lambda connected: connected.recv(1) and None
    assert problem(place.ask(f"GET {place.prefix}/", BEARER)) == (504, "timeout")
    quiet(place)


def test_connections_to_one_sandbox_are_bounded(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports_module, "MAX_CONNECTIONS", 1)
    place.server.answer = lambda connected: connected.recv(1) and None
    line = f"GET {place.prefix}/ HTTP/1.1\r\nhost: localhost\r\n{BEARER}\r\n\r\n"
    with place.door.connect() as client:
        client.sendall(line.encode())
        while not place.guest.streams:
            time.sleep(0.01)
        assert problem(place.ask(f"GET {place.prefix}/", BEARER)) == (429, "overloaded")
    quiet(place)
    place.server.answer = OK
    assert place.ask(f"GET {place.prefix}/", BEARER).status == 200


def test_a_sandbox_that_dies_under_a_request_is_told_of(mortal: Place) -> None:
    def die(connected: socket.socket) -> None:
        mortal.door.loop.call_soon_threadsafe(mortal.guest.close)
        connected.recv(1)

    mortal.server.answer = die
    assert problem(mortal.ask(f"GET {mortal.prefix}/", BEARER)) == (503, "guest_lost")


def test_a_daemon_that_ends_ends_what_it_passes_on(mortal: Place) -> None:
    mortal.server.answer = lambda connected: connected.recv(1) and None
    line = f"GET {mortal.prefix}/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    with mortal.door.connect() as client:
        client.sendall(f"{line}{BEARER}\r\n\r\n".encode())
        while not mortal.guest.streams:
            time.sleep(0.01)
        (stream,) = mortal.door.app.state.open_streams
        mortal.door.loop.call_soon_threadsafe(stream.cancel)
        assert b"the daemon is shutting down" in read_all(client)
    quiet(mortal)
