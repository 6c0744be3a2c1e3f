"""The first message of TLS: whom the client asks for (RFC 8446 section 4.1.2, RFC 6066)."""

from __future__ import annotations

from .client import Client, promptly
from .host import Host, parse_host
from .refusal import Outcome, Refused

MAX_HELLO = 16 * 1024
HANDSHAKE = 0x16
ACCESS_DENIED = b"\x15\x03\x03\x00\x02\x02\x31"
"""A fatal alert, access_denied, as a record (RFC 8446 section 6)."""

_CLIENT_HELLO = 1
_SERVER_NAME = 0x0000
_ENCRYPTED_NAMES = frozenset({0xFE0D, 0xFFCE})
"""Encrypted ClientHello and its predecessor, ESNI."""


async def check_server_name(client: Client, host: Host) -> None:
    """The ClientHello asks for `host`, and where that is an address, for no name.

    Raises Refused, EOFError.
    """
    hello = HelloReader()
    data = client.ahead
    async with promptly():
        while not hello.feed(data):
            data = await client.more()
            if not data:
                raise EOFError
    name = hello.server_name()
    asked = None if name is None else parse_host(name)
    wanted = host if host.address is None else None
    if asked != wanted:
        raise Refused(
            Outcome.DENIED,
            "sni",
            f"the connection is to {host.text}: TLS has to ask for {_shown(wanted)} there, "
            f"and asks for {_shown(asked)}",
        )


def _shown(name: Host | None) -> str:
    return "no name" if name is None else name.text


class HelloReader:
    """Puts a ClientHello together from records as they arrive."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._seen = 0
        self._message = bytearray()

    def feed(self, data: bytes) -> bool:
        """Whether the whole message is there. Raises Refused at the first byte out of place."""
        self._seen += len(data)
        self._raw += data
        while len(self._raw) >= 5:
            length = int.from_bytes(self._raw[3:5])
            if self._raw[0] != HANDSHAKE or self._raw[1] != 3 or not 0 < length <= MAX_HELLO:
                raise _malformed("that is not the beginning of TLS")
            if len(self._raw) < 5 + length:
                break
            self._message += self._raw[5 : 5 + length]
            del self._raw[: 5 + length]
            if self._complete():
                return True
        if self._seen > MAX_HELLO:
            raise _malformed("the ClientHello is larger than 16 KiB")
        return False

    def server_name(self) -> str | None:
        """The name in clear, None without one. Raises Refused, also for a hidden one."""
        try:
            return _server_name(_Reader(memoryview(bytes(self._message))[4:]))
        except _Truncated:
            raise _malformed("the ClientHello is malformed") from None

    def _complete(self) -> bool:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            raise _malformed("TLS begins with a ClientHello")
        if len(message) < 4:
            return False
        length = 4 + int.from_bytes(message[1:4])
        if length > MAX_HELLO:
            raise _malformed("the ClientHello is larger than 16 KiB")
        if len(message) > length:
            # A second message could say something else.
            raise _malformed("something follows the ClientHello in its record")
        return len(message) == length


class _Truncated(Exception):
    pass


class _Reader:
    """Takes fields from the front; raises _Truncated where one is longer than what is left."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def take(self, count: int) -> memoryview:
        if len(self._data) < count:
            raise _Truncated
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> _Reader:
        return _Reader(self.take(self.number(size)))


def _server_name(hello: _Reader) -> str | None:
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    if not hello:
        return None
    extensions = hello.vector(2)
    if hello:
        raise _Truncated
    seen: set[int] = set()
    name = None
    while extensions:
        kind, body = extensions.number(2), extensions.vector(2)
        if kind in seen:
            raise _malformed("the ClientHello has an extension twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _only_name(body)
    if seen & _ENCRYPTED_NAMES:
        raise Refused(
            Outcome.DENIED,
            "sni",
            "the client hides the name it asks for; switch Encrypted ClientHello off",
        )
    return name


def _only_name(extension: _Reader) -> str:
    names = extension.vector(2)
    kind, name = names.number(1), names.vector(2)
    if extension or names or kind != 0:
        raise _malformed("the ClientHello names more than one host")
    try:
        return bytes(name.take(len(name))).decode("ascii")
    except UnicodeDecodeError:
        raise _malformed("the ClientHello's server name is not ASCII") from None


def _malformed(reason: str) -> Refused:
    return Refused(Outcome.DENIED, "tls", reason)
