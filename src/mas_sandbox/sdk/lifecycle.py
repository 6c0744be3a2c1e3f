"""What the lives of named sandboxes look like on the way out: paths, bodies and queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import quote, urlencode

from .calls import Body, plain

if TYPE_CHECKING:
    from mas_sandbox.api.sandboxes import OnTimeout, State
    from mas_sandbox.policy.model import Policy
    from mas_sandbox.wire.isolation import Isolation

SANDBOXES = "/v1/sandboxes"


class SandboxOptions(TypedDict, total=False):
    """What a sandbox may be asked to be.

    `runtime`: made with this one and no other; `min_isolation`: walls of this strength at
    least; `image`: what a microvm is made from, `current` or a digest; `policy`: narrows the
    caller's; `env`: variables of every call; `metadata`: what to find it by; `timeout_s`: how
    long it may live; `idle_timeout_s`: how long it may be left unused; `on_timeout`: `kill` or
    `pause`, what becomes of it when either is over.
    """

    runtime: str | None
    min_isolation: Isolation | str | None
    image: str | None
    policy: Policy | Mapping[str, Any] | None
    env: Mapping[str, str] | None
    metadata: Mapping[str, str] | None
    timeout_s: int | None
    idle_timeout_s: int | None
    on_timeout: OnTimeout | None


def open_body(options: SandboxOptions) -> Body:
    """The body of `POST /v1/sandboxes`.

    >>> open_body({"timeout_s": 60, "metadata": {"run": "r-1"}})
    {'timeout_s': 60, 'metadata': {'run': 'r-1'}}
    """
    body = plain(options)
    return {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in body.items()
    }


def sandbox_path(sandbox_id: str, action: str = "") -> str:
    """Where one sandbox is, or what is done with it.

    >>> sandbox_path("sb_1", "pause")
    '/v1/sandboxes/sb_1/pause'
    """
    place = f"{SANDBOXES}/{quote(sandbox_id, safe='')}"
    return f"{place}/{action}" if action else place


def list_path(
    metadata: Mapping[str, str] | None, states: Sequence[State], cursor: str | None
) -> str:
    """Where one page is.

    >>> list_path({"run": "r 1"}, ["paused"], None)
    '/v1/sandboxes?state=paused&metadata.run=r+1'
    """
    query = [("state", str(state)) for state in states]
    query += [(f"metadata.{key}", value) for key, value in (metadata or {}).items()]
    if cursor is not None:
        query.append(("cursor", cursor))
    return f"{SANDBOXES}?{urlencode(query)}" if query else SANDBOXES
