"""Requests for the lives of named sandboxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict
from urllib.parse import urlencode

from mas_sandbox.api.sandboxes import SandboxInfo, SandboxList

from ..calls import Body, plain
from . import SANDBOXES, Asked, sandbox_path

if TYPE_CHECKING:
    from mas_sandbox.api.sandboxes import OnTimeout, State
    from mas_sandbox.policy.model import Policy
    from mas_sandbox.wire.isolation import Isolation


class SandboxOptions(TypedDict, total=False):
    """What a sandbox may be asked to be.

    `runtime`: made with this one and no other; `min_isolation`: walls of this strength at
    least; `image`: what a microvm is made from, `current` or a digest; `policy`: narrows the
    caller's; `env`: variables of every call; `metadata`: what to find it by; `timeout_s`: how
    long it may live; `idle_timeout_s`: how long it may be left unused; `on_timeout`: `kill` or
    `pause`, what becomes of it when either is over; `idempotency_key`: whoever asks again with
    the same key within a day is told of the same sandbox, and none is started.
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
    idempotency_key: str | None


def opened(options: SandboxOptions) -> Asked[SandboxInfo]:
    """
    >>> opened({"timeout_s": 60, "metadata": {"run": "r-1"}}).body
    {'timeout_s': 60, 'metadata': {'run': 'r-1'}}
    """
    body: Body = {
        name: dict(value) if isinstance(value, Mapping) else value
        for name, value in plain(options).items()
    }
    key = body.pop("idempotency_key", None)  # it is a header
    return Asked("POST", SANDBOXES, SandboxInfo, body, key)


def about(sandbox_id: str) -> Asked[SandboxInfo]:
    return Asked("GET", sandbox_path(sandbox_id), SandboxInfo)


def changed(
    sandbox_id: str, action: Literal["extend", "pause", "resume"], timeout_s: int | None = None
) -> Asked[SandboxInfo]:
    body = plain({"timeout_s": timeout_s})
    return Asked("POST", sandbox_path(sandbox_id, action), SandboxInfo, body)


def ended(sandbox_id: str) -> Asked[SandboxInfo]:
    return Asked("DELETE", sandbox_path(sandbox_id), SandboxInfo)


def page(
    metadata: Mapping[str, str] | None, states: Sequence[State], cursor: str | None
) -> Asked[SandboxList]:
    """
    >>> page({"run": "r 1"}, ["paused"], None).path
    '/v1/sandboxes?state=paused&metadata.run=r+1'
    """
    query = [("state", str(state)) for state in states]
    query += [(f"metadata.{key}", value) for key, value in (metadata or {}).items()]
    if cursor is not None:
        query.append(("cursor", cursor))
    path = f"{SANDBOXES}?{urlencode(query)}" if query else SANDBOXES
    return Asked("GET", path, SandboxList)
