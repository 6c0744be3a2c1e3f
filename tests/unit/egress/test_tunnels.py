"""What passes through a tunnel that is not TLS."""

from __future__ import annotations

import asyncio

import pytest

from doubles.proxy_port import Handler, NotedReader, abort, answering, echo, proxy_port, received
from mas_sandbox.egress import client
from mas_sandbox.egress.first_bytes import Begins, classify
from mas_sandbox.policy.grants import HttpRule, NetworkPolicy

pytestmark = pytest.mark.anyio

PUBLIC = "93.184.216.34"
NETWORK = NetworkPolicy(hosts=("api.example.org", "b.example.org"), ports=(80, 22, 8080))
NAMES = {"api.example.org": [[PUBLIC]]}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def through(
    number: int, handler: Handler, *sent: bytes, network: NetworkPolicy = NETWORK
) -> tuple[bytes, bytes, list[str]]:
    """What the server and the client got, and what was refused."""
    async with proxy_port(network, NAMES, {(PUBLIC, number): handler}) as (port, servers):
        reader, writer = await port.tunnel("api.example.org", number)
        for piece in sent:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.write_eof()
        answer = await received(reader)
        writer.close()
        return bytes(servers[PUBLIC, number].received), answer, port.refused


@pytest.mark.parametrize("number", [80, 8080])
@pytest.mark.parametrize("host", ["api.example.org", "API.example.org.", "api.example.org:{}"])
async def test_http_in_a_tunnel_is_one_request_written_anew(number: int, host: str) -> None:
    head = f"GET /a?b=c HTTP/1.1\r\nHost: {host.format(number)}\r\nConnection: keep-alive\r\n\r\n"
    second = b"GET / HTTP/1.1\r\nHost: b.example.org\r\n\r\n"
    got, answer, refused = await through(
        number, answering(OK), head[:5].encode(), head[5:].encode(), second
    )
    shown = b"api.example.org" if number == 80 else b"api.example.org:8080"
    assert got == b"GET /a?b=c HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % shown
    assert answer.endswith(b"\r\n\r\nok") and answer.count(b"HTTP/1.1") == 1
    assert refused == []


@pytest.mark.parametrize("number", [80, 8080])
@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: b.example.org\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: evil.org\r\n\r\n",
        b"\r\n" * 20 + b"GET / HTTP/1.1\r\nHost: evil.org\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: api.example.org:1\r\n\r\n",
        b"GET http://evil.org/ HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
        b"GET http://api.example.org/ HTTP/1.1\r\nHost: evil.org\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: api.example.org\r\nHost: evil.org\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: api.example.org, evil.org\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT evil.org:443 HTTP/1.1\r\nHost: api.example.org\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: api.example.org\r\nContent-Length: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: api.example.org\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: evil.org\r\n\r\n",
        b"GET  /  HTTP/1.1\r\nHost: evil.org\r\n\r\n",
    ],
)
async def test_NW_09_a_request_for_anyone_else_never_reaches_the_server(
    head: bytes, number: int
) -> None:
    got, answer, refused = await through(number, answering(OK), head)
    assert got == b"" and len(refused) == 1
    assert answer.startswith(b"HTTP/1.1 4") and b"mas-sandbox: " in answer


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x00\x05hello", b"SSH-2.0-x\r\n", b"\0\0\0\x08", b"GET"]
)
async def test_port_80_is_for_http(sent: bytes) -> None:
    assert await through(80, echo, sent) == (b"", b"", ["tunnel"])


async def test_requests_in_a_tunnel_are_under_the_rules_for_plain_http() -> None:
    network = NETWORK.model_copy(update={"http": (HttpRule(paths=("/v1/*",)),)})
    good = b"GET /v1/a HTTP/1.1\r\nHost: api.example.org\r\n\r\n"
    bad = b"GET /v1/../a HTTP/1.1\r\nHost: api.example.org\r\n\r\n"
    assert (await through(80, answering(OK), good, network=network))[2] == []
    got, answer, refused = await through(80, answering(OK), bad, network=network)
    assert got == b"" and refused == ["network.http"] and b" 403 " in answer


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"PING\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"get key another\r\n",
        b"0032git-upload-pack /project.git\0host=a\0",
        b"\x16\x01rest",
        b"\x16",
        b"EHLO me\r\n",
        bytes(range(256)) * 1000,
    ],
)
async def test_other_ports_carry_any_bytes(sent: bytes) -> None:
    assert await through(22, echo, sent) == (sent, sent, [])


async def test_a_server_may_speak_first_and_a_direction_end_by_itself() -> None:
    async def greet(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        writer.write_eof()
        while await reader.read():
            continue

    async with proxy_port(NETWORK, NAMES, {(PUBLIC, 22): greet}) as (port, servers):
        reader, writer = await port.tunnel("api.example.org", 22)
        assert await received(reader) == b"220 hello\r\n"
        writer.write(b"EHLO me\r\n")
        await writer.drain()
        while not servers[PUBLIC, 22].received:
            await asyncio.sleep(0.01)
        writer.write(b"QUIT\r\n")
        writer.write_eof()
        while servers[PUBLIC, 22].received != b"EHLO me\r\nQUIT\r\n":
            await asyncio.sleep(0.01)


async def test_a_client_that_resets_is_not_taken_for_one_that_ended() -> None:
    seen: list[str] = []

    async def note(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read():
                continue
            seen.append("end")
        except ConnectionResetError:
            seen.append("reset")

    async with proxy_port(NETWORK, NAMES, {(PUBLIC, 22): note}) as (port, servers):
        for end, expected in ((asyncio.StreamWriter.write_eof, "end"), (abort, "reset")):
            _, writer = await port.tunnel("api.example.org", 22)
            writer.write(b"\0half")
            while not servers[PUBLIC, 22].received.endswith(b"half"):
                await asyncio.sleep(0.01)
            servers[PUBLIC, 22].received.clear()
            end(writer)
            while not seen:
                await asyncio.sleep(0.01)
            assert seen.pop() == expected


async def test_NW_09_a_request_after_the_servers_greeting_is_no_way_around() -> None:
    async def greet(reader: NotedReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        while await reader.read():
            continue

    async with proxy_port(NETWORK, NAMES, {(PUBLIC, 22): greet}) as (port, servers):
        reader, writer = await port.tunnel("api.example.org", 22)
        assert await reader.readline() == b"220 hello\r\n"
        writer.write(b"GET / HTTP/1.1\r\nHost: evil.org\r\n\r\n")
        await received(reader)
        assert servers[PUBLIC, 22].received == b"" and port.refused == ["tunnel"]


async def test_bytes_that_stay_undecided_are_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "HEAD_S", 0.1)
    async with proxy_port(NETWORK, NAMES, {(PUBLIC, 22): echo}) as (port, servers):
        reader, writer = await port.tunnel("api.example.org", 22)
        writer.write(b"GET")
        assert await received(reader) == b""
        assert servers[PUBLIC, 22].received == b"" and port.refused == ["slow client"]


def test_a_beginning_is_classified_by_as_few_bytes_as_tell() -> None:
    request = b"GET / HTTP/1.1\r\n"
    assert [classify(request[:n]) for n in range(len(request))] == [None] * len(request)
    assert classify(request) is Begins.HTTP
    assert classify(b"\r\n" + request) is Begins.HTTP
    assert classify(b"GET /\r\n") is Begins.OPAQUE  # HTTP/0.9, which names no host
    assert classify(b"G\0") is Begins.OPAQUE
    assert classify(b"0032git-upload-pack /project.git\0host=a\0") is Begins.OPAQUE
    assert classify(b"x" * 33) is None  # what some servers take for a method has no bound
    assert classify(b"x" * 20_000) is Begins.HTTP
    assert classify(b" \x0bX\x1f/\xa0HTTP/1.1\n") is Begins.HTTP  # to a lenient server
    assert classify(b"GET " + b" " * 20_000) is Begins.HTTP
