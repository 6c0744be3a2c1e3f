"""What both HTTP clients share: addresses, replies as exceptions, waiting before a retry."""

from __future__ import annotations

import math
import os
import random
from collections.abc import AsyncIterable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mas_sandbox.api.idempotency import KEY, is_key
from mas_sandbox.api.models import Problem

from .calls import decode, encode
from .errors import (
    BadReply,
    CallError,
    DaemonLost,
    DaemonUnavailable,
    InvalidRequest,
    Overloaded,
    Unauthenticated,
    error_of,
)

if TYPE_CHECKING:
    import httpx2

    from .asked import Asked
    from .calls import Body

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_TIMEOUT_S = 300.0
CONNECT_TIMEOUT_S = 5.0
MAX_RETRY_WAIT_S = 30.0

EXECUTE = "/v1/sandbox/execute"
HEALTH = "/v1/sandbox/health"
TOOLS = "/v1/tools"
RUNTIMES = "/v1/runtimes"
NDJSON = "application/x-ndjson"
JSON_BODY = {"content-type": "application/json"}
BYTES_BODY = {"content-type": "application/octet-stream"}


def daemon_url(url: str | None) -> str:
    """The daemon's address: `url`, or MAS_SANDBOX_URL, or port 8080 of this machine."""
    chosen = (url or os.environ.get("MAS_SANDBOX_URL") or DEFAULT_URL).rstrip("/")
    if not chosen.startswith(("http://", "https://")):
        raise InvalidRequest(
            f"{chosen!r} is not the address of a daemon; write it as {DEFAULT_URL} "
            "(argument `url`, or the variable MAS_SANDBOX_URL)"
        )
    return chosen


def headers(token: str | None) -> dict[str, str]:
    """Of every request: the bearer token, `token` or MAS_SANDBOX_TOKEN, where there is one."""
    chosen = token or os.environ.get("MAS_SANDBOX_TOKEN")
    if not chosen:
        return {}
    if not (chosen.isascii() and chosen.isprintable()) or " " in chosen:
        raise InvalidRequest("the token holds blanks or characters outside ASCII")
    return {"authorization": f"Bearer {chosen}"}


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it is sent. `content` that is an iterator is read as it is sent, once."""

    method: str
    path: str
    timeout: httpx2.Timeout
    content: bytes | Iterable[bytes] | AsyncIterable[bytes] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def outgoing(asked: Asked[Any], timeout: httpx2.Timeout) -> Outgoing:
    """Raises InvalidRequest for what cannot be sent."""
    match asked.body:
        case None:
            return Outgoing(asked.method, asked.path, timeout)
        case bytes() as content:
            return Outgoing(asked.method, asked.path, timeout, content, BYTES_BODY)
        case body:
            headers = JSON_BODY if asked.key is None else JSON_BODY | key_header(asked.key)
            return Outgoing(asked.method, asked.path, timeout, encode(body), headers)


def key_header(key: str) -> dict[str, str]:
    """A string as RFC 9651 has it; raises InvalidRequest.

    >>> key_header('say "hi"')
    {'idempotency-key': '"say \\\\"hi\\\\""'}
    """
    if not is_key(key):
        raise InvalidRequest(f"idempotency_key: pass {KEY}")
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return {"idempotency-key": f'"{escaped}"'}


def listening(
    method: str, path: str, timeout: httpx2.Timeout, body: Body | None = None
) -> Outgoing:
    """A request whose answer is a stream of events; raises InvalidRequest."""
    content = None if body is None else encode(body)
    headers = {"accept": NDJSON} if body is None else {"accept": NDJSON, **JSON_BODY}
    return Outgoing(method, path, timeout, content, headers)


def longer(timeout: httpx2.Timeout, seconds: float) -> httpx2.Timeout:
    """Waits so much longer for an answer."""
    if seconds == 0 or timeout.read is None:
        return timeout
    return silent(timeout, None if seconds == math.inf else timeout.read + seconds)


def silent(timeout: httpx2.Timeout, seconds: float | None) -> httpx2.Timeout:
    """Gives up after so many seconds without a byte."""
    import httpx2

    return httpx2.Timeout(seconds, connect=timeout.connect, pool=timeout.pool)


def check(response: httpx2.Response) -> None:
    """Raises the CallError that any status but 200 stands for; its body has been read."""
    if response.status_code != 200:
        retry_after = response.headers.get("retry-after")
        url = str(response.request.url)
        raise refusal(response.status_code, response.content, url, retry_after)


def refusal(status: int, content: bytes, url: str, retry_after: str | None) -> CallError:
    """What an answer other than 200 stands for."""
    try:
        problem = decode(Problem, content).error
    except BadReply:
        return BadReply(
            f"{url} answered HTTP {status} without a body of "
            "mas-sandboxd; check MAS_SANDBOX_URL, and what stands between here and there"
        )
    match status:
        case 401:
            return Unauthenticated(f"{problem.message}; set MAS_SANDBOX_TOKEN, or pass `token`")
        case 429:
            return Overloaded(problem.message, retry_after=_seconds(retry_after))
        case _:
            return error_of(problem)


def error_from(exc: httpx2.HTTPError | httpx2.InvalidURL, url: str) -> CallError:
    """What a failure of the connection means for the call."""
    import httpx2

    match exc:
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            return unreachable(exc, url)
        case httpx2.PoolTimeout():
            return Overloaded("all connections of this client are busy; use fewer calls at once")
        case httpx2.TimeoutException():
            return DaemonLost(
                f"no answer from {url} within the client's `timeout`; the call may still run: "
                "give the client more time than the policy gives the call"
            )
        case httpx2.InvalidURL() | httpx2.UnsupportedProtocol():
            return InvalidRequest(f"{url!r} is not the address of a daemon: {exc}")
        case _:
            return DaemonLost(
                f"the connection to {url} broke ({type(exc).__name__}: {exc}); "
                "the call may or may not have run"
            )


def unreachable(exc: Exception, url: str) -> DaemonUnavailable:
    """For a connection that was not made."""
    return DaemonUnavailable(
        f"cannot reach a daemon at {url} ({exc or type(exc).__name__}); is mas-sandboxd "
        "running there? Start it with `mas-sandboxd -listen :8080`, "
        "or set MAS_SANDBOX_URL to where it is"
    )


def retry_wait(error: Overloaded, attempt: int) -> float:
    """Seconds to wait before attempt number `attempt + 1`, with jitter."""
    wait_s = max(error.retry_after or 0.0, 0.1 * (1 << attempt))
    jitter: float = random.uniform(1.0, 1.25)  # noqa: S311 - spreads load, guards nothing
    return min(wait_s, MAX_RETRY_WAIT_S) * jitter


def _seconds(header: str | None) -> float | None:
    """`Retry-After` in seconds (RFC 9110, 10.2.3); the date form is not one we send."""
    return float(header) if header and header.isdigit() else None
