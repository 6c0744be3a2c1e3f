"""Plain HTTP through the proxy: one request, written anew both ways."""

from __future__ import annotations

import asyncio
import random

import pytest

from doubles.proxy_port import (
    Handler,
    NotedReader,
    SocketStream,
    abort,
    answering,
    proxy_port,
    received,
)
from mas_sandbox.egress.client import Client
from mas_sandbox.egress.http_forward import Exchange
from mas_sandbox.egress.http_request import read_proxy_request
from mas_sandbox.egress.refusal import Refused
from mas_sandbox.egress.request_path import canonical_path
from mas_sandbox.policy.grants import HttpRule, NetworkPolicy

pytestmark = pytest.mark.anyio

PUBLIC = "93.184.216.34"
NETWORK = NetworkPolicy(hosts=("api.example.org",), ports=(80, 8080))
NAMES = {"api.example.org": [[PUBLIC]]}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def exchange(
    request: bytes,
    handler: Handler,
    *more: bytes,
    network: NetworkPolicy = NETWORK,
    number: int = 80,
) -> tuple[bytes, bytes, list[str]]:
    """What the server and the client got, and what was refused."""
    async with proxy_port(network, NAMES, {(PUBLIC, number): handler}) as (port, servers):
        answer = await port.ask(request, *more)
        return bytes(servers[PUBLIC, number].received), answer, port.refused


async def test_the_request_is_sent_on_in_origin_form_with_its_own_host() -> None:
    request = (
        b"GET HTTP://API.example.org:8080?q=1/2 HTTP/1.1\r\nHost: evil.org\r\nAccept: */*\r\n"
        b"Proxy-Authorization: Basic eA==\r\nProxy-Connection: keep-alive\r\nKeep-Alive: 5\r\n"
        b"Connection: X-Private, Content-Length\r\nX-Private: 1\r\nTE: trailers\r\n\r\n"
    )
    got, answer, _ = await exchange(request, answering(OK), number=8080)
    assert got == (
        b"GET /?q=1/2 HTTP/1.1\r\nHost: api.example.org:8080\r\nAccept: */*\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


async def test_a_second_request_on_the_connection_is_not_sent_on() -> None:
    request = b"GET http://api.example.org/ HTTP/1.1\r\nHost: x\r\n\r\n"
    got, answer, _ = await exchange(request + request, answering(OK, OK), request)
    assert got.count(b"GET") == 1 and answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
        b"GET https://api.example.org/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET ftp://api.example.org/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://user@api.example.org/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://api.example.org#@evil.org/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://api.example.org/a#b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http:///path HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://api.example.org\\@evil.org/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT api.example.org HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT http://api.example.org:80/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT api.example.org:80/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT api.example.org:80 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na",
        b"GET http://api.example.org/ HTTP/2.0\r\nHost: x\r\n\r\n",
        b"GET http://api.example.org/ HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n",
        b"GET http://api.example.org/ HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n",
        b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
        b"\x16\x03\x01\x00\x05hello",
        b"hello\r\n\r\n",
        b"X: " + b"a" * 70_000,
    ],
)
async def test_what_is_no_request_to_a_proxy_is_refused(request_: bytes) -> None:
    async with proxy_port(NETWORK, NAMES, {(PUBLIC, 80): answering(OK)}) as (port, _):
        assert (await port.ask(request_)).startswith(b"HTTP/1.1 4")
        assert port.dialled == [] and len(port.refused) == 1


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: +5",
        "Content-Length: 5, 6",
    ],
)
async def test_framing_that_can_be_read_in_two_ways_is_refused(framing: str) -> None:
    head = f"POST http://api.example.org/ HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n0\r\n\r\n"
    async with proxy_port(NETWORK, NAMES, {(PUBLIC, 80): answering(OK)}) as (port, _):
        assert (await port.ask(head.encode())).startswith(b"HTTP/1.1 400 ")
        assert port.dialled == []


async def whole(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
    """Takes a chunked request or one of 300,000 bytes, and answers with its size."""
    data = b""
    while not (data.endswith(b"\r\n0\r\n\r\n") or len(data.partition(b"\r\n\r\n")[2]) == 300_000):
        data += await reader.read()
    body = b"%d" % len(data.partition(b"\r\n\r\n")[2])
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    writer.write(b"%x;a=b\r\n%b\r\n0\r\nTrailer: x\r\n\r\n" % (len(body), body))
    await writer.drain()


async def test_bodies_are_streamed_both_ways() -> None:
    head = b"POST http://api.example.org/ HTTP/1.1\r\nHost: x\r\n"
    body = b"x" * 300_000
    _, answer, _ = await exchange(head + b"Content-Length: 300000\r\n\r\n" + body, whole)
    assert answer.endswith(b"\r\n\r\n6\r\n300000\r\n0\r\n\r\n")
    chunked = b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX: y\r\n\r\n"
    got, answer, _ = await exchange(head + chunked, whole)
    assert got.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    old = head.replace(b"1.1", b"1.0") + b"Content-Length: 300000\r\n\r\n" + body
    _, answer, _ = await exchange(old, whole)
    assert answer.endswith(b"\r\n\r\n300000") and b"chunked" not in answer


async def test_connection_cannot_name_the_framing_away() -> None:
    head = b"POST http://api.example.org/ HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n"
    body = b"x" * 300_000
    _, answer, _ = await exchange(head + b"Connection: Content-Length\r\n\r\n" + body, whole)
    assert b"300000" in answer


async def test_a_client_of_http_1_0_gets_one_answer() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    request = b"GET http://api.example.org/ HTTP/1.0\r\n\r\n"
    _, answer, _ = await exchange(request, answering(hints + OK))
    assert answer.startswith(b"HTTP/1.1 200 OK") and answer.count(b"HTTP/") == 1
    _, answer, _ = await exchange(
        request.replace(b"1.0\r\n", b"1.1\r\nHost: x\r\n"), answering(hints + OK)
    )
    assert answer.startswith(b"HTTP/1.1 103 ") and answer.count(b"HTTP/") == 2


class AnsweredAndGone:
    """An upstream that takes the head, answers, and then takes nothing more."""

    def __init__(self) -> None:
        self.answers = [b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", b""]
        self.taken = 0

    async def read(self) -> bytes:
        while self.taken < 2:
            await asyncio.sleep(0)
        return self.answers.pop(0)

    async def write(self, data: bytes) -> None:
        self.taken += 1
        if self.taken > 1:
            raise BrokenPipeError


async def test_the_answer_of_a_server_that_takes_no_more_is_still_read() -> None:
    async with proxy_port(NETWORK) as (port, _):

        async def serve(stream: SocketStream) -> None:
            client = Client(stream)
            request = await read_proxy_request(client)
            await Exchange(request, "/", client, AnsweredAndGone()).run()

        port.session.serve = serve
        head = b"POST http://api.example.org/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"
        assert (await port.ask(head)).startswith(b"HTTP/1.1 413 ")
        assert port.failures == []


async def test_a_client_may_wait_for_100_continue() -> None:
    async def careful(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
        assert b"Expect: 100-continue" in await reader.head()
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.read() == b"hello"
        writer.write(OK)

    async with proxy_port(NETWORK, NAMES, {(PUBLIC, 80): careful}) as (port, _):
        reader, writer = await port.connect()
        writer.write(
            b"POST http://api.example.org/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"hello")
        assert (await received(reader)).endswith(b"ok")


async def test_an_answer_before_the_whole_request_is_relayed() -> None:
    async def impatient(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
        await reader.head()
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    head = b"POST http://api.example.org/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\nab"
    _, answer, _ = await exchange(head, impatient)
    assert answer.startswith(b"HTTP/1.1 413 Too Large\r\n")


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\nX\r\n\r\n", b"HTTP/1.1 101 No\r\n\r\n"]
)
async def test_a_server_that_does_not_answer_is_a_bad_gateway(said: bytes) -> None:
    async def mute(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
        await reader.head()
        writer.write(said)
        await writer.drain()

    request = b"GET http://api.example.org/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    got, answer, refused = await exchange(request, mute)
    assert answer.startswith(b"HTTP/1.1 502 ") and refused == ["upstream"]
    assert b"Upgrade" not in got


async def test_a_server_that_resets_is_a_bad_gateway() -> None:
    async def reset(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
        await reader.head()
        abort(writer)

    request = b"GET http://api.example.org/ HTTP/1.1\r\nHost: x\r\n\r\n"
    _, answer, refused = await exchange(request, reset)
    assert answer.startswith(b"HTTP/1.1 502 ") and refused == ["upstream"]


async def test_an_answer_that_breaks_off_is_not_ended_as_if_it_were_whole() -> None:
    async def broken(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
        await reader.head()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        await writer.drain()

    async with proxy_port(NETWORK, NAMES, {(PUBLIC, 80): broken}) as (port, _):
        reader, writer = await port.connect()
        writer.write(b"GET http://api.example.org/ HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            while await reader.read(65536):
                continue


async def test_a_websocket_passes_after_both_agreed() -> None:
    async def talk(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.head()
        assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in head
        assert b"Sec-WebSocket-Key: a" in head
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: b\r\n\r\nfirst"
        )
        while data := await reader.read():
            writer.write(data.upper())

    async with proxy_port(NETWORK, NAMES, {(PUBLIC, 80): talk}) as (port, _):
        reader, writer = await port.connect()
        writer.write(
            b"GET http://api.example.org/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Key: a\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ") and b"Sec-WebSocket-Accept: b" in head
        assert await reader.readexactly(5) == b"first"
        writer.write(b"frame")
        assert await reader.readexactly(5) == b"FRAME"
        writer.write_eof()
        assert await received(reader) == b""


RULES = NETWORK.model_copy(
    update={
        "http": (
            HttpRule(hosts=("api.example.org",), paths=("/v1/*", "/health")),
            HttpRule(hosts=("other.example.org",), methods=("POST",)),
        )
    }
)


@pytest.mark.parametrize(
    ("line", "sent"),
    [
        ("GET /v1/models?x=..", "GET /v1/models?x=.. "),
        ("HEAD /health", "HEAD /health "),
        ("GET /a/../v1/./m%20n", "GET /v1/m%20n "),
        ("GET /v1/%2e%2e/health", "GET /health "),
        ("GET /v1//a", "GET /v1//a "),
    ],
)
async def test_a_request_that_a_rule_allows_is_sent_as_it_was_judged(line: str, sent: str) -> None:
    request = line.replace(" ", " http://api.example.org") + " HTTP/1.1\r\nHost: x\r\n\r\n"
    got, _, refused = await exchange(request.encode(), answering(OK), network=RULES)
    assert got.decode().startswith(sent) and refused == []


@pytest.mark.parametrize(
    "line",
    [
        *("POST /v1/models", "DELETE /health", "get /health", "GET /", "GET /v1", "GET /v2/a"),
        *("GET /healthy", "GET /health/", "GET //v1/a", "GET /v1/../admin", "GET /v1/%2e%2e/admin"),
        *("GET /v1/%2E./admin", "GET /v1/.%2e;x/admin", "GET /v1/..;/admin", "GET /v1/..%2fadmin"),
        *("GET /v1/%5c..%5cadmin", "GET /v1\\..\\admin", "GET /v1/%252e%252e/admin", "GET /v1/%00"),
        *(
            "GET /v1/%zz",
            "GET /v1/%",
            "GET /v1/%ff",
            "GET /v1/a%0d%0ab",
            "GET /v1%2fa",
            "GET /v1/..",
        ),
    ],
)
async def test_a_request_that_no_rule_allows_is_refused(line: str) -> None:
    request = line.replace(" ", " http://api.example.org") + " HTTP/1.1\r\nHost: x\r\n\r\n"
    async with proxy_port(RULES, NAMES, {(PUBLIC, 80): answering(OK)}) as (port, _):
        answer = await port.ask(request.encode())
        assert answer.startswith((b"HTTP/1.1 403 ", b"HTTP/1.1 400 "))
        assert port.refused == ["network.http"] and port.dialled == []


async def test_without_rules_paths_are_sent_as_they_are_written() -> None:
    request = b"GET http://api.example.org/@scope%2fname/../x HTTP/1.1\r\nHost: x\r\n\r\n"
    got, _, _ = await exchange(request, answering(OK))
    assert got.startswith(b"GET /@scope%2fname/../x HTTP/1.1\r\n")


async def test_what_is_written_down_of_a_request_is_bounded_and_without_its_query() -> None:
    request = b"GET http://api.example.org/" + b"a" * 3000 + b"?secret HTTP/1.1\r\nHost: x\r\n\r\n"
    async with proxy_port(NETWORK, NAMES, {(PUBLIC, 80): answering(OK)}) as (port, _):
        await port.ask(request)
        assert port.decisions[0].path == "/" + "a" * 511
        assert "secret" not in repr(port.decisions)


@pytest.mark.parametrize("raw", ["/a/..;/b", "/a/%2e%2e;x/b", "/a/%zz", "/a/%", "/%2f", "/%255c"])
def test_a_path_that_can_be_read_in_two_ways_is_refused(raw: str) -> None:
    with pytest.raises(Refused):
        canonical_path(raw)


def test_a_judged_path_has_no_dots_left_and_reads_the_same_again() -> None:
    """Fuzz of the path: what is sent on means what was judged."""
    rng = random.Random(7)
    pieces = (
        "/",
        ".",
        "..",
        "a",
        "%2e",
        "%2E%2e",
        "%41",
        ";",
        "%2f",
        "\\",
        "%25",
        "é",
        "b%20c",
        "//",
    )
    kept = 0
    for _ in range(20_000):
        raw = "/" + "".join(rng.choices(pieces, k=rng.randrange(8)))
        try:
            judged, sent = canonical_path(raw)
        except Refused:
            continue
        kept += 1
        assert canonical_path(sent) == (judged, sent)
        assert not {".", ".."} & set(judged.split("/")) and judged.startswith("/")
    assert kept > 1000


async def test_no_bytes_are_a_fault_of_the_daemons() -> None:
    """Fuzz: a request changed at random is refused, or reaches the host that was judged."""
    rng = random.Random(8)
    whole_request = (
        b"POST http://api.example.org/v1/a?b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    )
    async with proxy_port(NETWORK, NAMES, {(PUBLIC, 80): answering(OK)}) as (port, servers):
        for _ in range(200):
            sent = bytearray(whole_request)
            for _ in range(rng.randrange(1, 4)):
                sent[rng.randrange(len(sent))] = rng.choice(b"\0\r\n :/;aA0\xff\x16")
            await port.ask(bytes(sent), end=True)
        assert port.failures == []
        assert set(port.dialled) <= {(PUBLIC, 80)}
        seen = bytes(servers[PUBLIC, 80].received)
        assert seen.count(b"Host: ") == seen.count(b"Host: api.example.org\r\n") > 0
