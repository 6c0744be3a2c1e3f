"""The endpoints. They translate; the broker decides."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPBearer
from starlette.responses import Response

from mas_sandbox import __version__
from mas_sandbox.api.models import (
    CreateReply,
    CreateRequest,
    DestroyReply,
    DestroyRequest,
    ExecuteReply,
    ExecuteRequest,
    Health,
    Problem,
    RuntimeList,
    ToolInfo,
    ToolList,
)

from ..broker import Broker
from ..calls import Caller, ToolRequest
from ..matrix import described
from .at_once import Shortcut
from .problems import JsonReply
from .reading import json_body
from .strict import StrictRequest, StrictRoute

Value = TypeVar("Value")

CLIENT_GONE = 499
"""Written to nobody; nginx's number for it."""


async def _broker(request: Request) -> Broker:
    broker: Broker = request.app.state.broker
    return broker


async def caller_of(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


TheBroker = Annotated[Broker, Depends(_broker)]
TheCaller = Annotated[Caller, Depends(caller_of)]

# Only for the OpenAPI page: the layer `Authentication` has already asked.
bearer = HTTPBearer(auto_error=False, description="-auth-token, or a token of the policy file")

PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "malformed body, or a field that does not fit"},
    401: {"model": Problem, "description": "no token, or nobody's"},
    403: {"model": Problem, "description": "unknown Host, foreign Origin, or policy_denied"},
    404: {"model": Problem, "description": "no such sandbox, or someone else's"},
    408: {"model": Problem, "description": "the body did not arrive in 10 s"},
    409: {"model": Problem, "description": "not while the sandbox is paused, or calls run in it"},
    413: {"model": Problem, "description": "the body is over 1 MiB"},
    415: {"model": Problem, "description": "the body is not application/json"},
    422: {"model": Problem, "description": "a control that cannot be held here, or it failed"},
    429: {"model": Problem, "description": "too many calls wait; see Retry-After"},
    431: {"model": Problem, "description": "the head is over 32 KiB, or has over 100 headers"},
    500: {"model": Problem, "description": "a fault in the daemon"},
    503: {
        "model": Problem,
        "description": "shutting down, or the sandbox is gone; or the audit log cannot be written",
    },
    504: {"model": Problem, "description": "it was not done in time"},
}

router = APIRouter(route_class=StrictRoute)
guarded = APIRouter(route_class=StrictRoute, dependencies=[Depends(bearer)], responses=PROBLEMS)


@guarded.post("/v1/sandbox/execute", response_model=ExecuteReply, tags=["calls"])
async def execute(
    body: ExecuteRequest, request: Request, broker: TheBroker, caller: TheCaller
) -> Response:
    """Run one tool call. However it ends, denied, failed or timed out, that is a 200;
    closing the connection cancels it."""
    trace = body.trace
    asked = ToolRequest(
        tool=body.tool.name,
        args=body.tool.args,
        policy=body.policy,
        sandbox_id=body.sandbox_id,
        tool_call_id=body.tool_call_id,
        run_id=trace.run_id if trace else "",
        step_id=trace.step_id if trace else "",
    )
    reply = await while_connected(request, broker.execute(caller, asked))
    if reply is None:
        return Response(status_code=CLIENT_GONE)
    return JsonReply({"tool_call_id": reply.tool_call_id} | reply.as_json())


async def _execute_at_once(request: StrictRequest) -> Response:
    body = await json_body(request, ExecuteRequest)
    return await execute(body, request, await _broker(request), await caller_of(request))


execute_at_once = Shortcut("/v1/sandbox/execute", _execute_at_once)


@guarded.post("/v1/sandbox/create", response_model=CreateReply, tags=["sandboxes"])
async def create(
    body: CreateRequest, request: Request, broker: TheBroker, caller: TheCaller
) -> Response:
    """Start a sandbox that lives until it is destroyed or idle, to name in later calls."""
    named = await while_connected(request, broker.create(caller, body.policy, body.idle_timeout_s))
    if named is None:
        return Response(status_code=CLIENT_GONE)
    return JsonReply(
        {
            "sandbox_id": named.id,
            "runtime": named.built.wall.name,
            "isolation": str(named.built.wall.isolation),
            "enforced": sorted(map(str, named.sandbox.enforced)),
        }
    )


@guarded.post("/v1/sandbox/destroy", tags=["sandboxes"])
async def destroy(body: DestroyRequest, broker: TheBroker, caller: TheCaller) -> DestroyReply:
    """End a sandbox and all it holds. Calls that run in it end as `interrupted`."""
    await broker.destroy(caller, body.sandbox_id)
    return DestroyReply(sandbox_id=body.sandbox_id)


@guarded.get("/v1/tools", tags=["calls"])
async def tools(broker: TheBroker, caller: TheCaller) -> ToolList:
    """The tools that the caller's policy does not rule out."""
    return ToolList(
        tools=tuple(
            ToolInfo(
                name=tool.name,
                description=tool.description,
                input_schema=dict(tool.input_schema),
                capabilities=tuple(sorted(map(str, tool.capabilities))),
            )
            for tool in broker.tools(caller)
        )
    )


@guarded.get("/v1/runtimes", tags=["daemon"])
async def runtimes(broker: TheBroker) -> RuntimeList:
    """The daemon's runtimes and what this host was found to enforce in each. The first to
    ask waits until those that no call has needed yet have been tried."""
    return RuntimeList(runtimes=tuple(await described(broker.walls)))


@router.get("/v1/sandbox/health", tags=["daemon"])
async def health(broker: TheBroker) -> Health:
    """Whether the daemon takes calls. Asks for no token."""
    return Health(
        status="draining" if broker.draining else "ok",
        version=__version__,
        runtime=broker.runtime.name,
        isolation=broker.runtime.isolation,
        running=broker.admission.running,
        waiting=broker.admission.waiting,
        sandboxes=len(broker.sandboxes),
    )


async def while_connected(request: Request, work: Coroutine[Any, Any, Value]) -> Value | None:
    """The value of `work`; None, and `work` cancelled, when the client goes away first."""
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        watching.cancel()
        working.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
