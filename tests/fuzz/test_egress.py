"""What a sandbox says at its way out: read one way, however it arrives, or refused."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import strategies as st

from fuzz.engine import PLACES, cuts, fuzz, inputs, texts
from mas_sandbox.egress import socks
from mas_sandbox.egress.client import Client
from mas_sandbox.egress.first_bytes import Begins, classify
from mas_sandbox.egress.host import Host, parse_authority, parse_host
from mas_sandbox.egress.http_request import read_proxy_request, read_tunnelled_request
from mas_sandbox.egress.refusal import Refused
from mas_sandbox.egress.request_path import canonical_path
from mas_sandbox.egress.special import embedded, special_range
from mas_sandbox.egress.tls import HelloReader

SERVER = Host("example.org")


class Pieces:
    """A client's stream: what it sends, in these pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]
        self.written = b""

    async def read(self, limit: int = 1 << 20) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if piece[limit:]:
            self._pieces.insert(0, piece[limit:])
        return piece[:limit]

    async def write(self, data: bytes) -> None:
        self.written += data

    def write_eof(self) -> None: ...
    def reset(self) -> None: ...


def read(reader: Callable[[Client], Awaitable[Any]], pieces: list[bytes]) -> Any:
    """What the reader makes of it; the outcome where it is refused."""
    try:
        return asyncio.run(_read(reader, Client(Pieces(pieces))))
    except Refused as refusal:
        return refusal.outcome
    except EOFError:
        return EOFError


async def _read(reader: Callable[[Client], Awaitable[Any]], client: Client) -> Any:
    return await reader(client)


HOSTS = st.one_of(
    texts("host"),
    st.integers(0, 2**32 - 1).map(str),
    st.lists(
        st.one_of(st.integers(0, 300).map(str), st.integers(0, 300).map(hex), st.integers(0, 300).map("0{:o}".format)),
        min_size=1,
        max_size=5,
    ).map(".".join),
    st.ip_addresses().map(str),
    st.ip_addresses(v=4).map("::ffff:{}".format),
)  # fmt: skip


@fuzz(150, spelling=HOSTS)
def test_a_host_is_a_name_or_the_address_that_the_system_would_dial(spelling: str) -> None:
    try:
        system: IPv4Address | None = IPv4Address(socket.inet_aton(spelling))
    except (OSError, UnicodeError, ValueError):
        system = None
    try:
        host = parse_host(spelling)
    except Refused:
        return
    assert host.text.isascii()
    assert host.text == host.text.lower()
    assert parse_host(host.text) == host
    assert host.address is None or host.text == str(host.address)
    assert not (isinstance(host.address, IPv6Address) and host.address.ipv4_mapped)
    if system is not None:
        assert host.address == system
    if host.address is None:
        with pytest.raises(ValueError, match=r"."):
            ip_address(host.text)


@fuzz(150, text=texts("host"), default=st.none() | st.just(80))
def test_an_authority_comes_back(text: str, default: int | None) -> None:
    try:
        host, port = parse_authority(text, default)
    except Refused:
        return
    assert 0 < port < 65_536
    assert parse_authority(host.at(port), None) == (host, port)


@fuzz(150, address=st.ip_addresses())
def test_what_stands_for_a_special_address_is_special(address: Any) -> None:
    inner = embedded(address)
    if inner is not None and special_range(inner) is not None:
        assert special_range(address) is not None
    if isinstance(address, IPv4Address):
        for spelt in (f"64:ff9b::{address}", f"::ffff:{address}", f"::{address}"):
            through = special_range(IPv6Address(spelt))
            assert through is not None or special_range(address) is None


@fuzz(150, data=inputs("first-bytes"))
def test_how_a_connection_begins_does_not_hang_on_its_pieces(data: bytes) -> None:
    whole = classify(data)
    assert {classify(data[:length]) for length in range(len(data))} <= {None, whole}


METHOD = st.text("ABCdefGET-", min_size=1, max_size=50).filter(str.isalpha).map(str.encode)
BLANK = st.text(" \t\x0b\x0c\r\x1c\x1f\x85\xa0", min_size=1, max_size=3).map(
    lambda text: text.encode("latin-1")
)
END = st.text("\r \t", max_size=2).map(str.encode)
FRONT = st.builds(
    bytes.__add__,
    st.text("\r\n", max_size=2).map(str.encode),
    st.text(" \t", max_size=2).map(str.encode),
)
TARGET = st.sampled_from([b"/", b"/a?b", b"http://a/", b"*", b"/a b", b"/\0"])


@fuzz(150, front=FRONT, method=METHOD, blanks=st.tuples(BLANK, BLANK), target=TARGET, end=END)
def test_what_a_lenient_server_takes_for_a_request_is_http(
    front: bytes, method: bytes, blanks: tuple[bytes, bytes], target: bytes, end: bytes
) -> None:
    """One that reads a line as http.server does: words between white space of any kind."""
    data = front + method + blanks[0] + target + blanks[1] + b"HTTP/1.1" + end + b"\n"
    line = data.lstrip(b"\r\n").partition(b"\n")[0].decode("latin-1")
    assert line.split()[0].encode() == method
    assert classify(data) is Begins.HTTP
    assert {classify(data[:length]) for length in range(len(data))} <= {None, Begins.HTTP}


def request(head: Any) -> Any:
    if not hasattr(head, "host"):
        return head
    return head.host, head.port, head.method, head.path, head.query, head.event.headers.raw_items()


@fuzz(100, data=inputs("http"), places=PLACES)
def test_a_request_to_the_proxy_is_the_same_however_it_arrives(
    data: bytes, places: list[int]
) -> None:
    whole = read(read_proxy_request, [data])
    assert request(read(read_proxy_request, cuts(data, places))) == request(whole)
    if hasattr(whole, "host") and whole.method != "CONNECT":
        assert whole.path.startswith("/")
        assert whole.query == "" or whole.query.startswith("?")


@fuzz(100, data=inputs("http"), places=PLACES)
def test_a_request_in_a_tunnel_is_for_the_tunnels_host(data: bytes, places: list[int]) -> None:
    async def reader(client: Client) -> Any:
        return await read_tunnelled_request(client, SERVER, 80)

    found = read(reader, [data])
    assert request(read(reader, cuts(data, places))) == request(found)
    if hasattr(found, "host"):
        assert (found.host, found.port) == (SERVER, 80)
        hosts = [value for name, value in found.event.headers if name == b"host"]
        for value in hosts:
            assert parse_authority(value.decode(), 80) == (SERVER, 80)


@fuzz(100, data=inputs("socks"), places=PLACES)
def test_a_socks_request_is_the_same_however_it_arrives(data: bytes, places: list[int]) -> None:
    whole = read(socks.read_request, [data])
    assert read(socks.read_request, cuts(data, places)) == whole
    if isinstance(whole, tuple):
        host, port = whole
        assert 0 < port < 65_536
        assert parse_host(host.text) == host


def hello(pieces: list[bytes]) -> str | type[Refused] | bool | None:
    """The server's name; False where the hello is not whole."""
    reader = HelloReader()
    try:
        for piece in pieces:
            if reader.feed(piece):
                return reader.server_name()
    except Refused:
        return Refused
    return False


def spoken(name: str | None) -> bytes:
    """What OpenSSL sends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    sent = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=20)


@fuzz(
    60,
    name=st.none()
    | st.lists(LABEL, min_size=1, max_size=5).map(lambda parts: ".".join(parts) + ".example"),
    sizes=st.lists(st.integers(1, 300), min_size=1, max_size=4),
    places=PLACES,
)
def test_the_name_that_openssl_asks_for_is_found_in_records_of_any_size(
    name: str | None, sizes: list[int], places: list[int]
) -> None:
    message = spoken(name)[5:]
    records = b""
    while message:
        piece, message = message[: sizes[0]], message[sizes[0] :]
        sizes = sizes[1:] + sizes[:1]
        records += b"\x16\x03\x01" + len(piece).to_bytes(2) + piece
    assert hello(cuts(records, places)) == name


@fuzz(120, data=inputs("tls"), places=PLACES)
def test_a_hello_is_the_same_however_it_arrives(data: bytes, places: list[int]) -> None:
    whole, in_pieces = hello([data]), hello(cuts(data, places))
    # Where a whole hello is followed by more, a reader in pieces has stopped before it.
    assert in_pieces == whole


SEGMENTS = st.lists(
    st.one_of(
        st.sampled_from(["a", "..", ".", "", "%2e", "%2E%2e", ".%2e", "%2f", "%5c", "..;x", "%25", "%00", "\\", "b%20c", "é"]),
        st.text(max_size=4),
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip


@fuzz(150, segments=SEGMENTS)
def test_a_path_is_sent_as_it_was_judged(segments: list[str]) -> None:
    try:
        judged, sent = canonical_path("/" + "/".join(segments))
    except Refused:
        return
    assert unquote(sent, errors="strict") == judged
    assert not {".", ".."} & set(judged.split("/"))
    assert canonical_path(sent) == (judged, sent)
    assert judged.isprintable()
    assert not set(judged) & set("\\%?#")
