"""The endpoints. They translate; the broker decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPBearer
from starlette.responses import Response

from mas_sandbox.api.models import (
    CreateReply,
    CreateRequest,
    DestroyReply,
    DestroyRequest,
    ExecuteReply,
    ExecuteRequest,
    Health,
    RuntimeList,
    ToolInfo,
    ToolList,
)

from ..broker import Broker
from ..calls import Caller
from ..matrix import described
from . import execute as call
from . import keys
from .openapi import problem_response
from .strict_route import StrictRoute


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
    400: problem_response("malformed body, or a field that does not fit"),
    401: problem_response("no token, or nobody's"),
    403: problem_response("unknown Host, foreign Origin, or policy_denied"),
    404: problem_response("no such sandbox, or someone else's"),
    408: problem_response("the body did not arrive in 10 s"),
    409: problem_response(
        "not while the sandbox is paused, or calls run in it; or the key is another request's"
    ),
    410: problem_response("done once, and its answer was not kept"),
    413: problem_response("the body is over 1 MiB"),
    415: problem_response("the body is not application/json"),
    422: problem_response("a control that cannot be held here, or it failed"),
    429: problem_response("too many calls wait; see Retry-After"),
    431: problem_response("the head is over 32 KiB, or has over 100 headers"),
    500: problem_response("a fault in the daemon"),
    503: problem_response(
        "shutting down, or the sandbox is gone; or the audit log cannot be written"
    ),
    504: problem_response("it was not done in time"),
}

router = APIRouter(route_class=StrictRoute)
guarded = APIRouter(route_class=StrictRoute, dependencies=[Depends(bearer)], responses=PROBLEMS)


@guarded.post(
    "/v1/sandbox/execute", response_model=ExecuteReply, tags=["calls"], openapi_extra=keys.TAKES_KEY
)
async def execute(
    body: ExecuteRequest, request: Request, broker: TheBroker, caller: TheCaller
) -> Response:
    """Run one tool call. However it ends, denied, failed or timed out, that is a 200;
    closing the connection cancels it, unless it came with an Idempotency-Key."""
    return await call.execute(body, request, broker, caller)


@guarded.post(
    "/v1/sandbox/create",
    response_model=CreateReply,
    tags=["sandboxes"],
    openapi_extra=keys.TAKES_KEY,
)
async def create(
    body: CreateRequest, request: Request, broker: TheBroker, caller: TheCaller
) -> Response:
    """Start a sandbox that lives until it is destroyed or idle, to name in later calls."""

    async def work(begun: Callable[[], None]) -> dict[str, Any]:
        named = await broker.create(caller, body.policy, body.idle_timeout_s)
        begun()
        return {
            "sandbox_id": named.id,
            "runtime": named.built.wall.name,
            "isolation": str(named.built.wall.isolation),
            "enforced": sorted(map(str, named.sandbox.enforced)),
        }

    return await call.made(request, broker, caller, "create", work)


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
    return call.health(broker)
