"""The endpoints of a named sandbox's life."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from mas_sandbox.api.sandboxes import (
    MAX_METADATA,
    ExtendRequest,
    PauseRequest,
    ResumeRequest,
    SandboxInfo,
    SandboxList,
    SandboxRequest,
    State,
)
from mas_sandbox.policy.model import Policy
from mas_sandbox.policy.tool_isolation import stronger
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..registry import record as records
from ..registry.terms import OnTimeout, Terms
from .execute import made
from .keys import TAKES_KEY
from .problems import JsonReply
from .routes import PROBLEMS, TheBroker, TheCaller, bearer
from .strict_route import StrictRoute

_METADATA = "metadata."
_DEFAULT_STATES: tuple[State, ...] = ("running", "paused", "interrupted")

router = APIRouter(
    prefix="/v1/sandboxes",
    route_class=StrictRoute,
    dependencies=[Depends(bearer)],
    responses=PROBLEMS,
    tags=["sandboxes"],
)


@router.post("", response_model=SandboxInfo, openapi_extra=TAKES_KEY)
async def create(
    body: SandboxRequest, request: Request, broker: TheBroker, caller: TheCaller
) -> Response:
    """Start a sandbox that lives until its time is over, it is idle, or it is deleted."""
    terms = Terms(
        idle_timeout_s=body.idle_timeout_s,
        timeout_s=body.timeout_s,
        on_timeout=OnTimeout(body.on_timeout),
        metadata=body.metadata,
        env=body.env,
        runtime=body.runtime,
        image=body.image,
    )

    async def work(begun: Callable[[], None]) -> dict[str, Any]:
        named = await broker.open_sandbox(caller, _policy(body), terms)
        begun()
        return _info(await broker.sandboxes.about(caller.name, named.id))

    return await made(request, broker, caller, "sandboxes", work)


@router.get("", response_model=SandboxList)
async def page(
    request: Request,
    broker: TheBroker,
    caller: TheCaller,
    state: Annotated[list[State] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=256)] = None,
) -> Response:
    """The caller's sandboxes, newest first; those that have ended only where `state` asks for
    them. `metadata.KEY=VALUE` leaves those whose metadata says so."""
    states = tuple(map(records.State, state or _DEFAULT_STATES))
    after = None if cursor is None else records.parse_cursor(cursor)
    asked = records.Query(caller.name, states, _metadata(request), limit + 1, after)
    found = await broker.sandboxes.page(asked)
    more = records.cursor_of(found[limit - 1]) if len(found) > limit else None
    return JsonReply({"sandboxes": list(map(_info, found[:limit])), "next_cursor": more})


@router.get("/{sandbox_id}", response_model=SandboxInfo)
async def about(sandbox_id: str, broker: TheBroker, caller: TheCaller) -> Response:
    """One sandbox. One that has ended is remembered for a day."""
    return _reply(await broker.sandboxes.about(caller.name, sandbox_id))


@router.post("/{sandbox_id}/extend", response_model=SandboxInfo)
async def extend(
    sandbox_id: str, body: ExtendRequest, broker: TheBroker, caller: TheCaller
) -> Response:
    """Let it live for `timeout_s` from now on."""
    return _reply(await broker.sandboxes.extend(caller.name, sandbox_id, body.timeout_s))


@router.post("/{sandbox_id}/pause", response_model=SandboxInfo)
async def pause(
    sandbox_id: str, body: PauseRequest, broker: TheBroker, caller: TheCaller
) -> Response:
    """Stop everything in it where it stands. It keeps its memory and its files, takes no
    call until it is resumed, and does not age."""
    return _reply(await broker.sandboxes.pause(caller.name, sandbox_id))


@router.post("/{sandbox_id}/resume", response_model=SandboxInfo)
async def resume(
    sandbox_id: str, body: ResumeRequest, broker: TheBroker, caller: TheCaller
) -> Response:
    """Let everything in it go on."""
    return _reply(await broker.resume(caller, sandbox_id, body.timeout_s))


@router.delete("/{sandbox_id}", response_model=SandboxInfo)
async def delete(sandbox_id: str, broker: TheBroker, caller: TheCaller) -> Response:
    """End it and all it holds. Calls that run in it end as `interrupted`."""
    await broker.destroy(caller, sandbox_id)
    return _reply(await broker.sandboxes.about(caller.name, sandbox_id))


def _policy(body: SandboxRequest) -> Policy | None:
    if body.min_isolation is None:
        return body.policy
    asked = body.policy or Policy()
    isolation = stronger(asked.min_isolation, body.min_isolation)
    return asked.model_copy(update={"min_isolation": isolation})


def _metadata(request: Request) -> Mapping[str, str]:
    """Raises SandboxError `invalid_request` for a filter that is there twice, or unknown."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in ("state", "limit", "cursor"):
            continue
        key = name.removeprefix(_METADATA)
        if key == name or key in found or len(found) >= MAX_METADATA:
            raise SandboxError(
                ErrorCode.INVALID_REQUEST,
                f"{name[:80]}: not a filter, or there twice; there are state, limit, cursor and "
                f"up to {MAX_METADATA} of {_METADATA}KEY",
            )
        found[key] = value
    return found


def _reply(record: records.Record) -> JsonReply:
    return JsonReply(_info(record))


def _info(record: records.Record) -> dict[str, Any]:
    """The fields of `api.sandboxes.SandboxInfo`."""
    return {
        "sandbox_id": record.id,
        "state": str(record.state),
        "reason": record.reason,
        "runtime": record.runtime,
        "isolation": record.isolation,
        "enforced": list(record.enforced),
        "metadata": dict(record.metadata),
        "timeout_s": record.timeout_s,
        "idle_timeout_s": record.idle_timeout_s,
        "on_timeout": record.on_timeout,
        "created_ms": record.created_ms,
        "changed_ms": record.changed_ms,
        "expires_ms": record.expires_ms,
    }
