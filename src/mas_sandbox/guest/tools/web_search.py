"""web_search: asks a SearXNG server that the operator named.

https://docs.searxng.org/dev/search_api.html describes what is asked and answered.
"""

from __future__ import annotations

import os

from mas_sandbox.wire import strict_json

from . import ToolFailure
from .arguments import integer, only, text
from .charset import cut
from .deadline import Deadline
from .http_client import Request, ask
from .http_request import DEFAULT_TIMEOUT
from .url import Url

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files

MAX_RESULTS = 20
MAX_QUERY = 1000
SERVER = "MAS_SANDBOX_SEARCH_URL"
_MAX_ANSWER = 4 * 1024 * 1024
_MAX_SHOWN = 2000


def web_search(args: dict[str, Any], files: Files) -> list[dict[str, str]]:
    """`title`, `url` and `snippet` of each result, the best first."""
    only(args, "query", "max_results")
    query = text(args, "query").strip()
    count = integer(args, "max_results", 5, 1, MAX_RESULTS)
    if not 0 < len(query) <= MAX_QUERY:
        raise ToolFailure(f"query must have 1 to {MAX_QUERY} characters", "invalid_request")
    url = _search_url(query)
    with Deadline(DEFAULT_TIMEOUT, "the search"):
        answer = ask(Request("GET", url, [("Accept", "application/json")]), _MAX_ANSWER)
    if answer.status != 200:
        enable = "; SearXNG's settings must name json in search.formats"
        hint = enable if answer.status == 403 else ""
        raise ToolFailure(f"{url.authority} answers {answer.status} {answer.reason}{hint}")
    return [_shown(result) for result in _results(answer.body, url)[:count]]


def _search_url(query: str) -> Url:
    from urllib.parse import urlencode

    server = os.environ.get(SERVER)
    if not server:
        raise ToolFailure("no search server is set up; start mas-sandboxd with -search-url URL")
    try:
        return Url.parse(f"{server.rstrip('/')}/search?{urlencode({'q': query, 'format': 'json'})}")
    except ValueError as error:
        raise ToolFailure(f"mas-sandboxd's -search-url cannot be used: {error}") from error


def _results(body: bytes, url: Url) -> list[dict[str, Any]]:
    try:
        results = strict_json.loads(body, max_bytes=_MAX_ANSWER)["results"]
    except (ValueError, TypeError, KeyError) as error:
        raise ToolFailure(f"{url.authority} answers with something else than results") from error
    if not isinstance(results, list):
        raise ToolFailure(f"{url.authority} answers with something else than results")
    return [result for result in results if isinstance(result, dict) and result.get("url")]


def _shown(result: dict[str, Any]) -> dict[str, str]:
    fields = (("title", "title"), ("url", "url"), ("snippet", "content"))
    return {ours: cut(str(result.get(theirs) or ""), _MAX_SHOWN) for ours, theirs in fields}
