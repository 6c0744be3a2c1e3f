"""A tool call over HTTP, and whether the daemon takes any: what is answered without FastAPI,
and so before it is there (`app`)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from mas_sandbox import __version__
from mas_sandbox.api.models import ExecuteRequest, Health

from ..broker import Broker
from ..calls import Caller, ToolRequest
from . import keys
from .at_once import Shortcut
from .problems import JsonReply
from .reading import json_body
from .strict import StrictRequest

if TYPE_CHECKING:
    from ..once import Given, Work

Value = TypeVar("Value")

CLIENT_GONE = 499
"""Written to nobody; nginx's number for it."""


async def execute(
    body: ExecuteRequest, request: Request, broker: Broker, caller: Caller
) -> Response:
    """Run the call; closing the connection cancels it, unless it has a key."""
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
    if keys.NAME in request.headers:
        from ..once import EXECUTE, execute_once

        keyed = await keys.keyed(request, EXECUTE)
        return await given(request, execute_once(broker, caller, asked, keyed))
    reply = await while_connected(request, broker.execute(caller, asked))
    if reply is None:
        return Response(status_code=CLIENT_GONE)
    return JsonReply({"tool_call_id": reply.tool_call_id} | reply.as_json())


def health(broker: Broker) -> Health:
    """How the daemon is."""
    return Health(
        status="draining" if broker.draining else "ok",
        version=__version__,
        runtime=broker.runtime.name,
        isolation=broker.runtime.isolation,
        running=broker.admission.running,
        waiting=broker.admission.waiting,
        sandboxes=len(broker.sandboxes),
    )


async def made(
    request: Request, broker: Broker, caller: Caller, route: str, work: Work
) -> Response:
    """The answer that `work` makes; to a request with a key, the one it made for the first."""
    if keys.NAME in request.headers:
        keyed = await keys.keyed(request, route)
        return await given(request, broker.once.answer(caller.name, keyed, work))
    answer = await while_connected(request, work(_nothing))
    return Response(status_code=CLIENT_GONE) if answer is None else JsonReply(answer)


async def given(request: Request, work: Coroutine[Any, Any, Given]) -> Response:
    """The answer to a request with a key. It is kept for who asks again where the client has
    gone away."""
    answer = await while_connected(request, work)
    if answer is None:
        return Response(status_code=CLIENT_GONE)
    headers = {keys.REPLAYED: "true"} if answer.replayed else None
    return JsonReply(answer.body, headers=headers)


def _nothing() -> None:
    pass


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


async def _execute_at_once(request: StrictRequest) -> Response:
    body = await json_body(request, ExecuteRequest)
    return await execute(body, request, request.app.state.broker, request.state.caller)


async def _health_at_once(request: StrictRequest) -> Response:
    return JsonReply(health(request.app.state.broker).model_dump(mode="json"))


execute_at_once = Shortcut("/v1/sandbox/execute", _execute_at_once)
health_at_once = Shortcut("/v1/sandbox/health", _health_at_once, method="GET")
