"""What both HTTP clients share: addresses, replies as exceptions, waiting before a retry."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mas_sandbox.api.models import Problem

from .calls import decode, plain
from .errors import (
    BadReply,
    CallError,
    DaemonLost,
    DaemonUnavailable,
    InvalidRequest,
    Overloaded,
    Unauthenticated,
    error_for,
)

if TYPE_CHECKING:
    import httpx2

    from mas_sandbox.policy.model import Policy

DEFAULT_URL = "http://127.0.0.1:8080"
DEFAULT_TIMEOUT_S = 300.0
CONNECT_TIMEOUT_S = 5.0
MAX_RETRY_WAIT_S = 30.0

EXECUTE = "/v1/sandbox/execute"
CREATE = "/v1/sandbox/create"
DESTROY = "/v1/sandbox/destroy"
HEALTH = "/v1/sandbox/health"
TOOLS = "/v1/tools"
RUNTIMES = "/v1/runtimes"
JSON_BODY = {"content-type": "application/json"}


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


def create_body(
    policy: Policy | Mapping[str, Any] | None, idle_timeout_s: int | None
) -> dict[str, Any]:
    """The body of `POST /v1/sandbox/create`."""
    return plain({"policy": policy, "idle_timeout_s": idle_timeout_s})


def content_of(response: httpx2.Response) -> bytes:
    """The body of a 200; raises the CallError that any other status stands for."""
    if response.status_code == 200:
        return response.content
    raise _error_of(response)


def _error_of(response: httpx2.Response) -> CallError:
    try:
        problem = decode(Problem, response.content).error
    except BadReply:
        return BadReply(
            f"{response.request.url} answered HTTP {response.status_code} without a body of "
            "mas-sandboxd; check MAS_SANDBOX_URL, and what stands between here and there"
        )
    match response.status_code:
        case 401:
            return Unauthenticated(f"{problem.message}; set MAS_SANDBOX_TOKEN, or pass `token`")
        case 429:
            return Overloaded(
                problem.message, retry_after=_seconds(response.headers.get("retry-after"))
            )
        case _:
            return error_for(problem.code, problem.message)


def error_from(exc: httpx2.HTTPError | httpx2.InvalidURL, url: str) -> CallError:
    """What a failure of the connection means for the call."""
    import httpx2

    match exc:
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            return DaemonUnavailable(
                f"cannot reach a daemon at {url} ({exc or type(exc).__name__}); is mas-sandboxd "
                "running there? Start it with `mas-sandboxd -listen :8080`, "
                "or set MAS_SANDBOX_URL to where it is"
            )
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


def retry_wait(error: Overloaded, attempt: int) -> float:
    """Seconds to wait before attempt number `attempt + 1`, with jitter."""
    wait_s = max(error.retry_after or 0.0, 0.1 * (1 << attempt))
    jitter: float = random.uniform(1.0, 1.25)  # noqa: S311 - spreads load, guards nothing
    return min(wait_s, MAX_RETRY_WAIT_S) * jitter


def _seconds(header: str | None) -> float | None:
    """`Retry-After` in seconds (RFC 9110, 10.2.3); the date form is not one we send."""
    return float(header) if header and header.isdigit() else None
