"""The ClientHello: whom TLS asks for is whom the connection was allowed to."""

from __future__ import annotations

import random
import ssl

import pytest

from doubles.proxy_port import echo, proxy_port, received
from mas_sandbox.egress.refusal import Refused
from mas_sandbox.egress.tls import ACCESS_DENIED, MAX_HELLO, HelloReader
from mas_sandbox.policy.grants import NetworkPolicy

PUBLIC = "93.184.216.34"
NETWORK = NetworkPolicy(
    hosts=("api.example.org", "b.example.org"), cidrs=("93.184.216.0/24",), ports=(443, 8443)
)
NAMES = {"api.example.org": [[PUBLIC]], "b.example.org": [[PUBLIC]]}
SERVERS = {(PUBLIC, 443): echo, (PUBLIC, 8443): echo}


def client_hello(name: str | None) -> bytes:
    """As OpenSSL writes it."""
    context = ssl.create_default_context()
    context.check_hostname = name is not None
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def extension(kind: int, body: bytes) -> bytes:
    return kind.to_bytes(2) + len(body).to_bytes(2) + body


def server_name(*names: bytes, kind: int = 0) -> bytes:
    entries = b"".join(bytes([kind]) + len(n).to_bytes(2) + n for n in names)
    return extension(0, len(entries).to_bytes(2) + entries)


def message(*extensions: bytes, tail: bytes = b"") -> bytes:
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    body += len(b"".join(extensions)).to_bytes(2) + b"".join(extensions) + tail
    return b"\x01" + len(body).to_bytes(3) + body


def records(data: bytes, size: int = 16384) -> bytes:
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2) + piece for piece in pieces)


def read(data: bytes, step: int = 65536) -> str | None:
    reader = HelloReader()
    for start in range(0, len(data), step):
        if reader.feed(data[start : start + step]):
            return reader.server_name()
    raise EOFError


@pytest.mark.parametrize("step", [1, 7, 65536])
@pytest.mark.parametrize("size", [1, 5, 16384])
def test_the_name_is_found_however_the_message_is_cut(step: int, size: int) -> None:
    assert read(client_hello("api.example.org"), step) == "api.example.org"
    hello = message(extension(43, b"\x02\x03\x04"), server_name(b"api.example.org"))
    assert read(records(hello, size), step) == "api.example.org"
    assert read(records(message(extension(43, b"\x02\x03\x04")), size), step) is None


def test_no_name_is_no_name() -> None:
    assert read(client_hello(None)) is None
    assert read(records(message()[:-2].replace(b"\x01\x00\x00\x2b", b"\x01\x00\x00\x29"))) is None


NAME = server_name(b"api.example.org")


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (records(message(NAME, extension(0xFE0D, bytes(8)))), "sni"),
        (records(message(extension(0xFFCE, bytes(8)), NAME)), "sni"),
        (records(message(NAME, server_name(b"b.org"))), "tls"),
        (records(message(server_name(b"api.example.org", b"b.org"))), "tls"),
        (records(message(server_name(b"api.example.org", kind=1))), "tls"),
        (records(message(server_name())), "tls"),
        (records(message(server_name(b"\xff\xfe"))), "tls"),
        (records(message(extension(0, b"\x00\x40\x00\x00\x10a"))), "tls"),
        (records(message(NAME, tail=b"\0")), "tls"),
        (records(message(NAME) + message(server_name(b"b.org"))), "tls"),
        (records(b"\x02" + message(NAME)[1:]), "tls"),
        (b"\x16\x02\x00\x00\x05hello", "tls"),
        (b"\x16\x03\x01\x00\x00", "tls"),
        (b"\x16\x03\x01\x40\x01", "tls"),
        (records(message(NAME)[:20]) + b"\x17\x03\x01\x00\x01a", "tls"),
        (records(b"\x01\x00\x40\x00"), "tls"),
        (records(message(extension(21, bytes(MAX_HELLO)))), "tls"),
        (records(message(extension(21, bytes(MAX_HELLO - 100))), 1), "tls"),
    ],
)
def test_NW_09_what_could_say_two_things_is_refused(data: bytes, rule: str) -> None:
    with pytest.raises(Refused) as refused:
        read(data, 100)
    assert refused.value.rule == rule


def test_no_bytes_are_a_fault_of_the_daemons() -> None:
    """Fuzz: any change of a ClientHello is read or refused."""
    rng = random.Random(6)
    whole = client_hello("api.example.org")
    outcomes = set()
    for _ in range(5000):
        data = bytearray(whole[: rng.randrange(1, len(whole) + 1)])
        for _ in range(rng.randrange(3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            outcomes.add(read(bytes(data), rng.randrange(1, 600)))
        except Refused as refusal:
            assert refusal.reason.isprintable()
            outcomes.add(refusal.rule)
        except EOFError:
            outcomes.add("more")
    assert {"api.example.org", "tls", "more"} <= outcomes


async def begun(host: str, *sent: bytes, number: int = 443) -> tuple[bytes, bytes, list[str]]:
    """What the server and the client got, and what was refused, of a tunnel that begins so."""
    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, servers):
        reader, writer = await port.tunnel(host, number)
        for piece in sent:
            writer.write(piece)
            await writer.drain()
        writer.write_eof()
        answer = await received(reader)
        writer.close()
        return bytes(servers[PUBLIC, number].received), answer, port.refused


@pytest.mark.anyio
@pytest.mark.parametrize("number", [443, 8443])
async def test_NW_09_tls_to_the_host_that_was_allowed_passes_unchanged(number: int) -> None:
    hello = client_hello("API.example.org")
    halves = (hello[:40], hello[40:] + b"\x17\x03\x03\x00\x01a")
    sent = b"".join(halves)
    assert await begun("api.example.org", *halves, number=number) == (sent, sent, [])
    hello = client_hello(None)
    assert await begun(PUBLIC, hello, number=number) == (hello, hello, [])


@pytest.mark.anyio
@pytest.mark.parametrize("number", [443, 8443])
@pytest.mark.parametrize(
    ("host", "hello", "rule"),
    [
        ("api.example.org", client_hello("b.example.org"), "sni"),
        ("api.example.org", client_hello("evil.org"), "sni"),
        ("api.example.org", client_hello("api.example.org.evil.org"), "sni"),
        ("api.example.org", client_hello(None), "sni"),
        (PUBLIC, client_hello("api.example.org"), "sni"),
        ("api.example.org", records(message(NAME, extension(0xFE0D, b"\0"))), "sni"),
        ("api.example.org", records(message(server_name(b"api.example.org\0.a"))), "host"),
        ("api.example.org", b"\x16\x03\x03\x00\x01\x02", "tls"),
    ],
)
async def test_NW_09_tls_to_anyone_else_is_ended_and_the_server_sees_nothing(
    host: str, hello: bytes, rule: str, number: int
) -> None:
    assert await begun(host, hello, number=number) == (b"", ACCESS_DENIED, [rule])


@pytest.mark.anyio
@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\nHost: api.example.org\r\n\r\n", b"SSH-2.0-x\r\n", b"\x80\x2e\x01"]
)
async def test_NW_09_port_443_is_for_tls(sent: bytes) -> None:
    assert await begun("api.example.org", sent) == (b"", b"", ["tunnel"])
