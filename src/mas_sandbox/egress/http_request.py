"""The head of an HTTP/1 request: to the proxy, or inside a tunnel (RFC 9110, RFC 9112)."""

from __future__ import annotations

from dataclasses import dataclass

import h11

from .client import Client
from .first_bytes import HTTP_PORT
from .host import Host, parse_authority
from .refusal import Outcome, Refused

MAX_HEAD = 64 * 1024


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """`connection`: h11's side of the client, which still holds what follows the head.

    `path`: absolute, as written, without `query` (which begins with `?`, or is empty);
    both empty for CONNECT.
    """

    connection: h11.Connection
    event: h11.Request
    host: Host
    port: int
    method: str
    path: str = ""
    query: str = ""


async def read_proxy_request(client: Client) -> HttpRequest:
    """CONNECT with an authority, or anything else with an absolute `http://` target.

    Raises Refused, EOFError.
    """
    connection, event = await _read_head(client)
    method, target = event.method.decode("ascii"), event.target.decode("ascii")
    if method == "CONNECT":
        if _named(event, b"content-length") or _named(event, b"transfer-encoding"):
            raise _malformed("a CONNECT request has no body")
        host, port = parse_authority(target, None)
        client.ahead = connection.trailing_data[0]
        return HttpRequest(connection, event, host, port, method)
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() != "http":
        raise _malformed(
            "this is a proxy: send it 'GET http://host/path', or CONNECT for anything but "
            "plain HTTP; it serves nothing itself"
        )
    authority, path, query = _split(rest)
    host, port = parse_authority(authority, HTTP_PORT)
    return HttpRequest(connection, event, host, port, method, path, query)


async def read_tunnelled_request(client: Client, host: Host, port: int) -> HttpRequest:
    """A request inside a tunnel, which has to be for the host that the tunnel is to.

    Raises Refused, EOFError.
    """
    connection, event = await _read_head(client)
    method, target = event.method.decode("ascii"), event.target.decode("ascii")
    hosts = [value.decode("latin-1") for value in _named(event, b"host")]
    scheme, separator, rest = target.partition("://")
    absolute = bool(separator) and scheme.lower() == "http"
    authority, path, query = _split(rest if absolute else target)
    if absolute:
        hosts.append(authority)
    elif authority or method == "CONNECT":
        raise _malformed("a request inside a tunnel names a path, as in 'GET /path'")
    if not hosts or any(parse_authority(text, port) != (host, port) for text in hosts):
        raise Refused(
            Outcome.DENIED,
            "http host",
            f"the tunnel is to {host.at(port)}; its requests have to name that as their Host",
        )
    return HttpRequest(connection, event, host, port, method, path, query)


async def _read_head(client: Client) -> tuple[h11.Connection, h11.Request]:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    size = 0
    try:
        while data := await client.take():
            connection.receive_data(data)
            size += len(data)
            event = connection.next_event()
            if isinstance(event, h11.Request):
                # h11 looks at the size only where the head is not complete yet.
                if size - len(connection.trailing_data[0]) > MAX_HEAD:
                    raise _too_large()
                _refuse_ambiguous(event)
                return connection, event
    except h11.RemoteProtocolError as error:
        if error.error_status_hint == Outcome.TOO_LARGE.status:
            raise _too_large() from error
        raise _malformed("that is neither SOCKS5 nor a well-formed HTTP/1 request") from error
    raise EOFError


def _too_large() -> Refused:
    return Refused(Outcome.TOO_LARGE, "proxy", "the head of a request has at most 64 KiB")


def _refuse_ambiguous(request: h11.Request) -> None:
    """Framing that servers read in different ways (RFC 9112 section 6.1)."""
    if request.http_version not in (b"1.0", b"1.1"):
        raise _malformed("only HTTP/1.0 and HTTP/1.1 are spoken here")
    coded = _named(request, b"transfer-encoding")
    if coded and (_named(request, b"content-length") or request.http_version == b"1.0"):
        raise _malformed("a request has Content-Length or Transfer-Encoding, not both")


def _split(text: str) -> tuple[str, str, str]:
    """`(authority, path, query)` of what follows a scheme."""
    if "#" in text:
        raise _malformed("a request's target has no fragment")
    before, mark, query = text.partition("?")
    authority, slash, path = before.partition("/")
    return authority, slash + path or "/", mark + query


def _named(request: h11.Request, name: bytes) -> list[bytes]:
    return [value for header, value in request.headers if header == name]


def _malformed(reason: str) -> Refused:
    return Refused(Outcome.MALFORMED, "proxy", reason)
