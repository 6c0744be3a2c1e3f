"""Requests for stateful code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypedDict
from urllib.parse import quote

from mas_sandbox.api.code import ContextInfo, ContextList

from ..calls import plain
from . import Asked, sandbox_path
from .processes import milliseconds

if TYPE_CHECKING:
    from ..calls import Body


class ContextOptions(TypedDict, total=False):
    """What a context may be asked to be.

    `language`: `python`; `cwd`: where it begins; `env`: variables beside the sandbox's;
    `kernel`: `plain` is always there, `ipython` needs `ipykernel` in the sandbox, `auto`
    takes the best there is.
    """

    language: Literal["python"]
    cwd: str | None
    env: Mapping[str, str] | None
    kernel: Literal["auto", "plain", "ipython"]


def contexts_path(sandbox_id: str, context_id: str = "", action: str = "") -> str:
    """Where the contexts are, one of them, or what is done with it."""
    parts = ("contexts", quote(context_id, safe=""), action)
    return sandbox_path(sandbox_id, "code/" + "/".join(filter(None, parts)))


def run_path(sandbox_id: str) -> str:
    return sandbox_path(sandbox_id, "code/run")


def run_body(code: str, context_id: str | None, timeout: float | None) -> Body:
    """The body of a run.

    >>> run_body("x = 1", None, 2)
    {'code': 'x = 1', 'timeout_ms': 2000}
    """
    timeout_ms = None if timeout is None else milliseconds(timeout)
    return plain({"code": code, "context_id": context_id, "timeout_ms": timeout_ms})


def created(sandbox_id: str, options: ContextOptions) -> Asked[ContextInfo]:
    body = plain(options)
    if "env" in body:
        body["env"] = dict(body["env"])
    return Asked("POST", contexts_path(sandbox_id), ContextInfo, body)


def listed(sandbox_id: str) -> Asked[ContextList]:
    return Asked("GET", contexts_path(sandbox_id), ContextList)


def about(sandbox_id: str, context_id: str) -> Asked[ContextInfo]:
    return Asked("GET", contexts_path(sandbox_id, context_id), ContextInfo)


def changed(
    sandbox_id: str, context_id: str, action: Literal["interrupt", "restart"]
) -> Asked[ContextInfo]:
    return Asked("POST", contexts_path(sandbox_id, context_id, action), ContextInfo, {})


def closed(sandbox_id: str, context_id: str) -> Asked[ContextInfo]:
    return Asked("DELETE", contexts_path(sandbox_id, context_id), ContextInfo)
