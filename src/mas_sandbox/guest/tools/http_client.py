"""One request and its answer, by way of the sandbox's proxy and by no other.

The host decides at the proxy, hop by hop: a redirect is a request like any other there.
TLS is spoken with the server itself, through CONNECT (RFC 9110 section 9.3.6).
"""

from __future__ import annotations

import os
import zlib

from . import ToolFailure
from .url import Url

TYPE_CHECKING = False
if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

MAX_REDIRECTS = 5
MAX_HEADER_CHARS = 64 * 1024
REFUSED_BY = "X-Mas-Sandbox-Rule"
"""The field with which the host's proxy says that a refusal is its own."""
_PIECE = 64 * 1024
_REASON_BYTES = 2000
_GZIP = 0x1F  # the first byte of a member's magic number, RFC 1952
_ANY_WRAPPER = zlib.MAX_WBITS | 32
_REDIRECTS = (301, 302, 303, 307, 308)
_OF_ONE_ORIGIN = frozenset({"authorization", "cookie"})
_OF_A_BODY = frozenset({"content-encoding", "content-language", "content-location", "content-type"})


class Request:
    """`headers`: (name, value) pairs, checked by whoever made them."""

    __slots__ = ("body", "headers", "method", "url")

    def __init__(
        self,
        method: str,
        url: Url,
        headers: list[tuple[str, str]] | None = None,
        body: bytes | None = None,
    ) -> None:
        self.method = method
        self.url = url
        self.headers = headers or []
        self.body = body

    def redirected(self, status: int, location: str) -> Request:
        """What to ask for next; method and body as https://fetch.spec.whatwg.org/ has them.

        Raises ToolFailure.
        """
        try:
            # The field's bytes, which http.client takes for Latin-1.
            url = self.url.joined(location.encode("latin-1").decode("utf-8", "replace"))
        except ValueError as error:
            raise ToolFailure(f"{self.url} redirects to no URL: {error}") from error
        if self.url.scheme == "https" and url.scheme == "http":
            raise ToolFailure(f"{self.url} redirects from https to http, to {url}")
        method, body, dropped = self.method, self.body, frozenset[str]()
        if (status == 303 and method != "HEAD") or (status in (301, 302) and method == "POST"):
            method, body, dropped = "GET", None, _OF_A_BODY
        if url.origin != self.url.origin:
            dropped |= _OF_ONE_ORIGIN
        kept = [(name, value) for name, value in self.headers if name.lower() not in dropped]
        return Request(method, url, kept, body)


class Answer:
    """`body`: decoded, at most as long as was asked for; `truncated`: there was more of it;
    `media_type`: in lower case, without parameters, empty where none was stated."""

    __slots__ = ("body", "charset", "headers", "media_type", "reason", "status", "truncated", "url")

    def __init__(self, url: Url, response: HTTPResponse, limit: int) -> None:
        """Raises ToolFailure, OSError, HTTPException."""
        self.url = url
        self.status = response.status
        self.reason = response.reason
        self.headers = response.getheaders()
        stated = "Content-Type" in response.headers
        self.media_type = response.headers.get_content_type() if stated else ""
        self.charset = response.headers.get_content_charset()
        if sum(len(name) + len(value) for name, value in self.headers) > MAX_HEADER_CHARS:
            raise ToolFailure(f"{url} answers with more than {MAX_HEADER_CHARS} bytes of headers")
        self.body, self.truncated = _body(response, limit)

    def header(self, name: str) -> str | None:
        return next((value for known, value in self.headers if known.lower() == name), None)


def ask(request: Request, limit: int) -> Answer:
    """Send it, follow up to `MAX_REDIRECTS` redirects, and read at most `limit` bytes of the
    body. Raises ToolFailure, with the host's own words where that refuses."""
    for _ in range(1 + MAX_REDIRECTS):
        answer = _answer(request, limit)
        location = answer.header("location")
        if answer.status not in _REDIRECTS or location is None:
            return answer
        request = request.redirected(answer.status, location)
    raise ToolFailure(f"more than {MAX_REDIRECTS} redirects, the last to {request.url}")


def _answer(request: Request, limit: int) -> Answer:
    from http.client import HTTPConnection, HTTPException

    url = request.url
    connection = HTTPConnection(*_proxy())
    try:
        connection.connect()
        if url.scheme == "https":
            _tunnel(connection, url)
        _send(connection, request)
        response = connection.getresponse()
        if url.scheme == "http" and REFUSED_BY in response.headers:
            raise _refused(url, response)
        return Answer(url, response, limit)
    except (OSError, HTTPException, zlib.error) as error:
        said = str(error) or type(error).__name__
        raise ToolFailure(f"{request.method} {url} failed: {said}") from error
    finally:
        connection.close()


def _tunnel(connection: HTTPConnection, url: Url) -> None:
    """Let the connection with the proxy be one with the server, in TLS."""
    import ssl
    from http.client import HTTPResponse

    authority = url.authority
    connection.sock.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
    with HTTPResponse(connection.sock, method="CONNECT") as response:
        response.begin()
        if not 200 <= response.status < 300:
            raise _refused(url, response)
    context = ssl.create_default_context()
    try:
        connection.sock = context.wrap_socket(connection.sock, server_hostname=url.host)
    except ssl.SSLCertVerificationError as error:
        raise ToolFailure(
            f"the certificate of {url.host} is not trusted: {error.verify_message}; where it is of "
            "an authority of your own, name its file in SSL_CERT_FILE"
        ) from error


def _proxy() -> tuple[str, int]:
    try:
        proxy = Url.parse(os.environ["HTTP_PROXY"])
    except KeyError:
        message = "this sandbox has no way out: the runtime must be one with walls, such as jail"
        raise ToolFailure(message) from None
    except ValueError as error:
        raise ToolFailure(f"HTTP_PROXY names no proxy: {error}") from error
    return proxy.host, proxy.port


def _send(connection: HTTPConnection, request: Request) -> None:
    url = request.url
    target = str(url) if url.scheme == "http" else url.target
    connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
    fields = {"host": ("Host", url.host_field), "user-agent": ("User-Agent", "mas-sandbox")}
    fields |= {"accept": ("Accept", "*/*"), "accept-encoding": ("Accept-Encoding", "gzip, deflate")}
    if request.body is not None:
        fields["content-type"] = ("Content-Type", "text/plain; charset=utf-8")
    for name, value in request.headers:
        fields[name.lower()] = (name, value)
    if request.body is not None or request.method in ("POST", "PUT", "PATCH"):
        fields["content-length"] = ("Content-Length", str(len(request.body or b"")))
    fields["connection"] = ("Connection", "close")
    for name, value in fields.values():
        connection.putheader(name, value)
    connection.endheaders(request.body)


def _refused(url: Url, response: HTTPResponse) -> ToolFailure:
    """The proxy's answer, as the failure of a tool."""
    said = response.read(_REASON_BYTES).decode("utf-8", "replace").strip()
    rule = response.headers.get(REFUSED_BY)
    why = said or f"{response.status} {response.reason}"
    return ToolFailure(f"no connection to {url.authority}: {why}" + (f" ({rule})" if rule else ""))


def _body(response: HTTPResponse, limit: int) -> tuple[bytes, bool]:
    """At most `limit` bytes, and whether there were more.

    Raises ToolFailure for a body that ends before it should, zlib.error for a broken one.
    """
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    inflate = _Inflater() if coding in ("gzip", "x-gzip", "deflate") else None
    body = bytearray()
    while len(body) <= limit and (piece := response.read(_PIECE)):
        body += inflate.inflated(piece, limit + 1 - len(body)) if inflate else piece
    if len(body) > limit:
        return bytes(body[:limit]), True
    if response.length or (inflate is not None and not inflate.whole):
        raise ToolFailure("the connection ended before the answer did")
    return bytes(body), False


class _Inflater:
    """gzip of any number of members, zlib, or deflate without a wrapper."""

    def __init__(self) -> None:
        self._inflater: zlib._Decompress | None = None

    @property
    def whole(self) -> bool:
        """Whether it could end here."""
        return self._inflater is None or self._inflater.eof

    def inflated(self, piece: bytes, limit: int) -> bytes:
        """Raises zlib.error. What exceeds `limit` is lost."""
        out = b""
        while piece and len(out) < limit:
            if self._inflater is None:
                self._inflater = zlib.decompressobj(_wrapper(piece))
            elif self._inflater.eof and piece[0] != _GZIP:
                break  # padding after the last member
            elif self._inflater.eof:
                self._inflater = zlib.decompressobj(_ANY_WRAPPER)
            out += self._inflater.decompress(piece, limit - len(out))
            piece = self._inflater.unused_data
        return out


def _wrapper(data: bytes) -> int:
    """The `wbits` of zlib's inflateInit2 for data that begins like this."""
    zlibs = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
    return _ANY_WRAPPER if zlibs or data[0] == _GZIP else -zlib.MAX_WBITS
