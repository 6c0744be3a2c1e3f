"""What clients may try (AP-01 to AP-08 of the security corpus), as bytes on the wire."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.http_door import Door, http_door, read_all
from mas_sandbox.audit.verify import verify
from mas_sandbox.server.http import protocol

SUM = b'{"tool":{"name":"calculator","args":{"expression":"1"}}}'


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with http_door(tmp_path) as opened:
        yield opened


def request(
    body: bytes = SUM,
    *,
    head: bytes = b"",
    host: bytes = b"host: localhost\r\n",
    kind: bytes = b"content-type: application/json\r\n",
    length: int | None = None,
) -> bytes:
    size = len(body) if length is None else length
    return (
        b"POST /v1/sandbox/execute HTTP/1.1\r\n"
        + host
        + kind
        + head
        + b"connection: close\r\ncontent-length: %d\r\n\r\n" % size
        + body
    )


def status(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1]) if reply else 0


def still_serves(door: Door) -> bool:
    return status(door.send(request())) == 200


def test_a_plain_request_is_served(door: Door) -> None:
    assert still_serves(door)


@pytest.mark.parametrize(
    "body",
    [
        b'{"tool":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"tool":{"name":"calculator","args":{"expression":' + b"9" * 5000 + b"}}}",
        b'{"tool":{"name":"calculator","args":{"expression":NaN}}}',
        b'{"tool":{"name":"calculator","name":"bash","args":{}}}',
        b'{"tool":{"name":"calculator","args":{"expression":"\\ud800"}}}',
        b'{"tool":{"name":"calculator","args":{}}} trailing',
        b"{" + b",".join(b'"k%d":1' % n for n in range(60_000)) + b"}",
        b'{"policy":{' + b",".join(b'"k%d":1' % n for n in range(60_000)) + b"}}",
        b"\xff\xfe",
        b"",
        b"null",
    ],
)
def test_a_hostile_body_is_a_quick_400(door: Door, body: bytes) -> None:
    began = time.process_time()  # the door is a thread of this process
    reply = door.send(request(body))
    assert status(reply) == 400
    assert b"Traceback" not in reply
    assert time.process_time() - began < 1
    assert still_serves(door)


def test_a_body_over_the_bound_is_a_413_before_it_is_sent(door: Door) -> None:
    assert status(door.send(request(b"x", length=1_048_577))) == 413


def test_a_chunked_body_over_the_bound_is_a_413(door: Door) -> None:
    chunk = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
    with door.connect() as connection:
        connection.sendall(
            b"POST /v1/sandbox/execute HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        try:
            for _ in range(64):
                connection.sendall(chunk)
        except OSError:
            pass  # the daemon has closed, as it should
        assert status(read_all(connection)) in (0, 413)
    assert still_serves(door)


def test_a_small_chunked_body_is_served(door: Door) -> None:
    chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in SUM) + b"0\r\n\r\n"
    reply = door.send(
        b"POST /v1/sandbox/execute HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n" + chunks
    )
    assert status(reply) == 200


@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 5\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"transfer-encoding: chunked, identity\r\n",
        b"content-length: 5\r\ncontent-length: 6\r\n",
        b"content-length: +5\r\n",
        b"content-length: -1\r\n",
        b"content-length: 99999999999999999999\r\n",
        b"x-folded: a\r\n b\r\n",
        b"x bad: 1\r\n",
        b"x-nul: \x00\r\n",
    ],
)
def test_ambiguous_framing_is_refused_and_the_connection_closed(door: Door, framing: bytes) -> None:
    reply = door.send(
        b"POST /v1/sandbox/execute HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: application/json\r\n" + framing + b"\r\n0\r\n\r\n"
    )
    assert status(reply) in (400, 413)
    assert door.bench.records("intent") == []
    assert still_serves(door)


@pytest.mark.parametrize(
    "head",
    [
        b"x: " + b"a" * 40_000 + b"\r\n",
        b"".join(b"x%d: a\r\n" % n for n in range(200)),
        b"".join(b"x%d: " % n + b"a" * 4000 + b"\r\n" for n in range(40)),
    ],
)
def test_a_large_head_is_a_431(door: Door, head: bytes) -> None:
    assert status(door.send(request(head=head))) == 431
    assert still_serves(door)


def test_a_head_that_never_ends_is_cut_off(door: Door) -> None:
    with door.connect() as connection:
        connection.sendall(b"GET /docs HTTP/1.1\r\nx: ")
        sent = 0
        try:
            while sent < 50_000_000:
                sent += connection.send(b"a" * 65536)
        except OSError:
            pass
        assert sent < 20_000_000
    assert still_serves(door)


def test_a_slow_head_is_timed_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", 0.3)
    with http_door(tmp_path) as door:
        began = time.monotonic()
        with door.connect() as slow, door.connect() as silent:
            slow.sendall(b"GET /docs HTTP/1.1\r\n")
            assert status(read_all(slow)) == 408
            assert read_all(silent) == b""
        assert time.monotonic() - began < 5
        assert still_serves(door)


def test_idle_connections_give_way_to_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 5)
    with http_door(tmp_path) as door:
        idle = [door.connect() for _ in range(20)]
        assert still_serves(door)
        for connection in idle:
            connection.close()


@pytest.mark.parametrize(
    "host",
    [
        b"host: evil.example\r\n",
        b"host: localhost.evil.example\r\n",
        b"host: 127.0.0.1@evil.example\r\n",
        b"host: localhost\r\nhost: evil.example\r\n",
        b"host:\r\n",
        b"",
    ],
)
def test_another_name_than_ours_is_a_403(door: Door, host: bytes) -> None:
    assert status(door.send(request(host=host))) == 403
    assert door.bench.records("intent") == []


@pytest.mark.parametrize("host", [b"allowed.example", b"127.0.0.1:1", b"LOCALHOST"])
def test_a_name_of_ours_is_served(door: Door, host: bytes) -> None:
    assert status(door.send(request(host=b"host: " + host + b"\r\n"))) == 200


@pytest.mark.parametrize(
    "origin", [b"http://evil.example", b"null", b"http://localhost:9", b"https://localhost.evil"]
)
def test_a_page_of_another_origin_is_a_403(door: Door, origin: bytes) -> None:
    assert status(door.send(request(head=b"origin: " + origin + b"\r\n"))) == 403
    assert door.bench.records("intent") == []


@pytest.mark.parametrize(
    "kind",
    [
        b"content-type: text/plain\r\n",
        b"content-type: application/x-www-form-urlencoded\r\n",
        b"content-type: application/jsonp\r\n",
        b"",
    ],
)
def test_what_a_form_can_send_is_a_415(door: Door, kind: bytes) -> None:
    assert status(door.send(request(kind=kind))) == 415


def test_a_websocket_is_opened_only_where_there_is_one(door: Door) -> None:
    with door.connect() as connection:
        connection.sendall(
            b"GET /v1/tools HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\n"
            b"upgrade: websocket\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert status(connection.recv(65536)) == 403


def test_foreign_names_are_refused_before_the_token_is_looked_at(tmp_path: Path) -> None:
    with http_door(tmp_path, token="t" * 32) as door:
        right = b"authorization: Bearer " + b"t" * 32 + b"\r\n"
        assert status(door.send(request(head=right))) == 200
        evil = b"host: evil.example\r\n"
        assert status(door.send(request(host=evil, head=right))) == 403
        assert status(door.send(request(host=evil))) == 403
        assert status(door.send(request(length=10_000_000))) == 401
        assert status(door.send(request(head=right + right))) == 401


def test_control_characters_stay_in_one_record(door: Door, tmp_path: Path) -> None:
    name = b'a\\r\\n\\u001b[31m\\u2028\\u0000{\\"kind\\":\\"outcome\\"}'
    reply = door.send(request(b'{"tool":{"name":"' + name + b'","args":{}}}'))
    assert status(reply) == 200
    assert len(door.bench.records("intent")) == len(door.bench.records("outcome")) == 1
    assert verify(tmp_path / "audit.jsonl").problems == []


def test_a_client_that_only_half_closes_or_resets_costs_nothing(door: Door) -> None:
    for _ in range(20):
        with door.connect() as connection:
            connection.sendall(request()[:60])
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert still_serves(door)


def test_a_refusal_is_not_lost_to_a_body_that_comes_after_it(door: Door) -> None:
    """A connection that is closed while more arrives is reset, and takes the answer with it."""
    for _ in range(5):
        with door.connect() as connection:
            connection.sendall(request(b"", host=b"host: evil.example\r\n", length=1 << 20))
            answer = connection.recv(65536)
            for _ in range(64):
                connection.sendall(bytes(1 << 14))
            assert status(answer + read_all(connection)) == 403
