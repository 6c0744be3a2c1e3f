"""Where the HTTP door listens, and which names it answers to."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from mas_sandbox.wire.errors import ErrorCode, SandboxError

BACKLOG = 2048
MAX_PORT = 65535
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,200}}$){_LABEL}(\.{_LABEL})*")
_PORT_LABEL = re.compile("([1-9][0-9]{0,4})-sb[-_]([0-9a-f]{32})")
MIN_EXPOSED_TOKEN_CHARS = 16
"""A token shorter than this is not accepted where other machines may try tokens."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and port to listen on; the host is empty where none was named (`:8080`)."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """`:8080`, `127.0.0.1:8080`, `[::1]:8080`. Raises SandboxError `invalid_request`."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    plain_ipv6 = ":" in host and not text.startswith("[")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or plain_ipv6:
        raise _bad(f"-listen {text!r} is not an address; write :8080, 127.0.0.1:8080 or [::1]:8080")
    return Address(host, int(port))


def bind(address: Address, authenticated: bool, token: str | None) -> socket.socket:
    """A listening socket. Without authentication it is a loopback one, always.

    Raises SandboxError `invalid_request` with the mend.
    """
    host = address.host or ("0.0.0.0" if authenticated else "127.0.0.1")  # noqa: S104
    found = _resolve(host, address.port)
    loopback = all(ipaddress.ip_address(place[0]).is_loopback for _, place in found)
    if not loopback and not authenticated:
        raise _bad(
            f"-listen {host}:{address.port} can be reached from other machines and nobody is "
            "asked who they are; give -auth-token or a -policy with principals, "
            f"or listen on 127.0.0.1:{address.port}"
        )
    if not loopback and token is not None and len(token) < MIN_EXPOSED_TOKEN_CHARS:
        raise _bad(
            f"-listen {host}:{address.port} can be reached from other machines and the token "
            f"has under {MIN_EXPOSED_TOKEN_CHARS} characters; make one: openssl rand -hex 32"
        )
    family, place = found[0]
    try:
        return socket.create_server(place, family=family, backlog=BACKLOG)
    except OSError as error:
        raise _bad(
            f"cannot listen on {host}:{address.port}: {error.strerror or error}; "
            "choose another -listen address"
        ) from error


def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except (OSError, UnicodeError) as error:
        raise _bad(f"-listen: cannot resolve {host!r}: {error}") from error
    return [(family, (str(place[0]), int(place[1]))) for family, _, _, _, place in found]


def _bad(reason: str) -> SandboxError:
    return SandboxError(ErrorCode.INVALID_REQUEST, reason)


class HostNames:
    """The names by which this daemon may be addressed, against DNS rebinding.

    A page in a browser can make any name of its own resolve to this machine; the
    name then stands in the Host header. So that header must be a loopback name, the
    very address that the connection came in on, or a name the operator allowed.

    Beneath `ports_domain` every port of every sandbox has a name of its own,
    `{port}-{sandbox}.{domain}`, which is the port's and never the daemon's.
    """

    def __init__(self, allowed: tuple[str, ...] = (), ports_domain: str | None = None) -> None:
        self._allowed = frozenset(
            {"localhost", "127.0.0.1", "::1", *(name.lower().rstrip(".") for name in allowed)}
        )
        self._ports_domain = ports_domain.lower().rstrip(".") if ports_domain else None
        if self._ports_domain is not None and not _DOMAIN.fullmatch(self._ports_domain):
            raise _bad(
                f"-ports-domain {ports_domain!r} is not a domain; write a name that all names "
                "beneath lead here, such as localhost or ports.example.com"
            )

    def port_of(self, host_header: str) -> tuple[str, int] | None:
        """The sandbox and the port whose name this is; None for any other name."""
        host = _host_of(host_header) if self._ports_domain else None
        label, _, domain = (host or "").rstrip(".").partition(".")
        named = _PORT_LABEL.fullmatch(label) if domain == self._ports_domain else None
        if named is None or int(named[1]) > MAX_PORT:
            return None
        return f"sb_{named[2]}", int(named[1])

    def name_of(self, sandbox_id: str, port: int, host_header: str) -> str | None:
        """What `port_of` reads, with the port by which the daemon is addressed; None where it
        has no domain for ports. An underscore, which some take for no part of a host name, is
        written as a hyphen."""
        if self._ports_domain is None:
            return None
        daemon_port = host_header.rpartition(":")[2]
        at = f":{daemon_port}" if daemon_port.isdigit() and ":" in host_header else ""
        return f"{port}-{sandbox_id.replace('_', '-')}.{self._ports_domain}{at}"

    def accepts(self, host_header: str, local_address: str) -> bool:
        """`local_address`: the connection's own address on this side."""
        host = _host_of(host_header)
        return host is not None and (host in self._allowed or host == local_address)

    def same_origin(self, origin: str, host_header: str) -> bool:
        """Whether a page of this origin (RFC 6454) was served by this daemon itself."""
        return origin.lower() in {
            f"{scheme}://{host_header.lower()}" for scheme in ("http", "https")
        }


def _host_of(header: str) -> str | None:
    """The host of `host[:port]`, lower case, without an IPv6 literal's brackets."""
    if header.startswith("["):
        host, bracket, rest = header[1:].partition("]")
        if not bracket:
            return None
    else:
        host, colon, port = header.partition(":")
        rest = colon + port
    if rest and not (rest[0] == ":" and rest[1:].isascii() and rest[1:].isdigit()):
        return None
    return host.lower() or None
