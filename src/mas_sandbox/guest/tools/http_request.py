"""http_request: one HTTP request, as the caller writes it."""

from __future__ import annotations

from . import ToolFailure
from .arguments import only, text
from .charset import cut, decoded
from .deadline import Deadline
from .http_client import Request, ask
from .url import Url

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files

MAX_BODY = 256 * 1024
"""Bytes of an answer's body, of its text in UTF-8: it fits the default output limit also
when escaped."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MAX_TIMEOUT = 600
DEFAULT_TIMEOUT = 30
MAX_HEADERS = 100
MAX_HEADER = 8192
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
# What the message itself is made with, or what the way to the server reads.
_OURS = frozenset(
    {
        *("connection", "content-length", "expect", "host", "keep-alive", "te", "trailer"),
        *("transfer-encoding", "upgrade"),
    }
)


def http_request(args: dict[str, Any], files: Files) -> dict[str, Any]:
    """`headers` of the result: lower-case name -> value, where a repeated field is joined by
    commas (RFC 9110 section 5.3), Set-Cookie by line feeds. `body`: text, or Base64 where
    `encoding` says so."""
    only(args, "method", "url", "headers", "body", "timeout")
    method = text(args, "method", "GET")
    if method not in METHODS:
        raise _invalid(f"method must be one of {', '.join(METHODS)}")
    url = web_url(args)
    body = text(args, "body").encode() if "body" in args else None
    request = Request(method, url, _headers(args.get("headers", {})), body)
    with Deadline(seconds(args), f"{method} {url}"):
        answer = ask(request, MAX_BODY)
    readable = decoded(answer.body, answer.media_type, answer.charset)
    shown = _base64(answer.body) if readable is None else cut(readable, MAX_BODY)
    return {
        "status": answer.status,
        "reason": answer.reason,
        "url": str(answer.url),
        "headers": _joined(answer.headers),
        "body": shown,
        "encoding": "base64" if readable is None else "text",
        "truncated": answer.truncated or (readable is not None and len(shown) < len(readable)),
    }


def web_url(args: dict[str, Any]) -> Url:
    """The argument `url`. Raises ToolFailure."""
    try:
        return Url.parse(text(args, "url"))
    except ValueError as error:
        raise _invalid(f"url: {error}") from error


def seconds(args: dict[str, Any]) -> float:
    """The argument `timeout`. Raises ToolFailure."""
    value = args.get("timeout", DEFAULT_TIMEOUT)
    if type(value) not in (int, float) or not 0 < value <= MAX_TIMEOUT:
        raise _invalid(f"timeout must be a number of seconds, {MAX_TIMEOUT} at most")
    return float(value)


def _headers(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, dict) or len(value) > MAX_HEADERS:
        raise _invalid(f"headers must be an object of name to value, {MAX_HEADERS} at most")
    names = set()
    for name, content in value.items():
        lower = name.lower()
        if not name or not _TOKEN.issuperset(name) or len(name) > 256:
            raise _invalid(f"{name[:80]!r} is no name of a header")
        if lower in _OURS or lower.startswith("proxy-"):
            raise _invalid(f"the header {name} is set by the tool itself; leave it out")
        if lower in names:
            raise _invalid(f"the header {name} is given twice")
        names.add(lower)
        if not _field_value(content):
            raise _invalid(
                f"the header {name} must be text of Latin-1, without line breaks or other control "
                f"characters, {MAX_HEADER} characters at most"
            )
    return [(name, content) for name, content in value.items()]


def _field_value(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > MAX_HEADER:
        return False
    return all(" " <= character <= "\xff" and character != "\x7f" for character in value)


def _joined(headers: list[tuple[str, str]]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        between = "\n" if lower == "set-cookie" else ", "
        joined[lower] = joined[lower] + between + value if lower in joined else value
    return joined


def _base64(data: bytes) -> str:
    import binascii

    return binascii.b2a_base64(data, newline=False).decode()


def _invalid(message: str) -> ToolFailure:
    return ToolFailure(message, "invalid_request")
