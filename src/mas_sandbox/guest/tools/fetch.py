"""fetch: a page or a text of the web, to be read."""

from __future__ import annotations

from . import ToolFailure
from .arguments import only, text
from .charset import cut, decoded
from .deadline import Deadline
from .http_client import Answer, Request, ask
from .http_request import DEFAULT_TIMEOUT, web_url

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files

MAX_PAGE = 2 * 1024 * 1024
"""Bytes of a page that are read."""
MAX_CONTENT = 256 * 1024
"""Bytes of the content, in UTF-8: they fit the default output limit also when escaped."""
_ACCEPT = "text/html, text/markdown;q=0.9, text/*;q=0.8, */*;q=0.5"
_PAGES = ("text/html", "application/xhtml+xml")


def fetch(args: dict[str, Any], files: Files) -> dict[str, Any]:
    """An answer that is no success is a failure of the tool."""
    only(args, "url", "format")
    url = web_url(args)
    wanted = text(args, "format", "markdown")
    if wanted not in ("text", "markdown", "html"):
        raise ToolFailure("format must be one of text, markdown, html", "invalid_request")
    with Deadline(DEFAULT_TIMEOUT, f"fetching {url}"):
        answer = ask(Request("GET", url, [("Accept", _ACCEPT)]), MAX_PAGE)
        title, content = _read(answer, wanted)
    shown = cut(content, MAX_CONTENT)
    return {
        "url": str(answer.url),
        "content_type": answer.media_type,
        "title": cut(title, 1000),
        "content": shown,
        "truncated": answer.truncated or len(shown) < len(content),
    }


def _read(answer: Answer, wanted: str) -> tuple[str, str]:
    """(title, content). Raises ToolFailure."""
    if not 200 <= answer.status < 300:
        raise ToolFailure(f"{answer.url} answers {answer.status} {answer.reason}".rstrip())
    readable = decoded(answer.body, answer.media_type, answer.charset)
    if readable is None:
        size = f"over {len(answer.body)}" if answer.truncated else len(answer.body)
        kind = answer.media_type or "data"
        raise ToolFailure(
            f"{answer.url} is {kind} of {size} bytes, not text; save it with bash and curl"
        )
    if wanted == "html" or answer.media_type not in _PAGES:
        return "", readable
    from .page import to_markdown, to_text

    return to_markdown(readable, answer.url) if wanted == "markdown" else to_text(readable)
