"""SOCKS5 (RFC 1928): CONNECT without authentication, to a name or an address."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from .client import Client
from .host import Address, Host, parse_host, parse_port, plain
from .refusal import Outcome, Refused

VERSION = 0x05
_NO_AUTHENTICATION = 0x00
_CONNECT = 0x01
_IPV4, _NAME, _IPV6 = 0x01, 0x03, 0x04
# Bound to 0.0.0.0:0: what the daemon's own address is, is not the sandbox's business.
_REPLY_TAIL = bytes([0x00, _IPV4, 0, 0, 0, 0, 0, 0])


async def read_request(client: Client) -> tuple[Host, int]:
    """Whom the client asks for. Raises Refused, to be told with `reply`; EOFError."""
    _, count = await client.exactly(2)
    if _NO_AUTHENTICATION not in await client.exactly(count):
        raise Refused(Outcome.AUTHENTICATION, "proxy", "there is no authentication here; use none")
    await client.stream.write(bytes([VERSION, _NO_AUTHENTICATION]))
    version, command, _, kind = await client.exactly(4)
    if version != VERSION:
        raise Refused(Outcome.MALFORMED, "proxy", "a SOCKS5 request begins with 5")
    host = await _host(client, kind)
    port = parse_port(str(int.from_bytes(await client.exactly(2))))
    if command != _CONNECT:
        raise Refused(
            Outcome.COMMAND, "proxy", "only CONNECT is offered; there is no BIND and no UDP"
        )
    return host, port


def reply(outcome: Outcome | None) -> bytes:
    """The answer to a request; None for success."""
    if outcome is Outcome.AUTHENTICATION:
        return bytes([VERSION, outcome.socks])  # the answer to the greeting
    return bytes([VERSION, 0 if outcome is None else outcome.socks]) + _REPLY_TAIL


async def _host(client: Client, kind: int) -> Host:
    if kind == _NAME:
        (length,) = await client.exactly(1)
        return _name(await client.exactly(length))
    address: Address
    if kind == _IPV4:
        address = IPv4Address(await client.exactly(4))
    elif kind == _IPV6:
        address = plain(IPv6Address(await client.exactly(16)))
    else:
        raise Refused(
            Outcome.ADDRESS_TYPE, "proxy", "the address type is none of IPv4, name and IPv6"
        )
    return Host(str(address), address)


def _name(spelling: bytes) -> Host:
    try:
        return parse_host(spelling.decode())
    except UnicodeDecodeError:
        raise Refused(Outcome.MALFORMED, "host", "that host name is not UTF-8") from None
