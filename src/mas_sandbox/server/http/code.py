"""The endpoints of stateful code."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, WebSocket
from starlette.responses import Response
from starlette.websockets import WebSocketDisconnect

from mas_sandbox.api.code import (
    CodeEvent,
    ContextInfo,
    ContextList,
    CreateContext,
    Execution,
    InterruptMessage,
    RunCode,
)
from mas_sandbox.api.models import ErrorBody
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..live.code import Codes, client_gone
from ..live.code_context import Context, NewContext
from ..live.code_run import Run, Wanted
from ..live.code_whole import whole
from ..live.events import error_fields
from .execute import CLIENT_GONE, while_connected
from .routes import PROBLEMS, TheCaller, bearer
from .sockets import FIRST_MESSAGE_S, caller_of, converse, deny, next_message, parsed, refuse
from .streaming import NDJSON, SSE, event_stream, wants_events
from .strict_route import StrictRoute

router = APIRouter(
    prefix="/v1/sandboxes/{sandbox_id}/code",
    route_class=StrictRoute,
    dependencies=[Depends(bearer)],
    responses=PROBLEMS,
    tags=["code"],
)
sockets = APIRouter(prefix="/v1/sandboxes/{sandbox_id}/code")


async def _codes(request: Request) -> Codes:
    codes: Codes = request.app.state.codes
    return codes


TheCodes = Annotated[Codes, Depends(_codes)]
_RAN: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Execution,
        "description": f"the whole run; its events where {NDJSON} or {SSE} is accepted",
        "content": {
            media_type: {"schema": CodeEvent.model_json_schema()} for media_type in (NDJSON, SSE)
        },
    }
}


_EMPTY = {
    "requestBody": {
        "content": {"application/json": {"schema": {"type": "object"}}},
        "required": True,
    }
}
"""What every POST is sent as, though nothing is said with it: no page of another origin can."""


@router.post("/contexts", response_model=ContextInfo)
async def create(
    sandbox_id: str, body: CreateContext, request: Request, codes: TheCodes, caller: TheCaller
) -> Response:
    """Make a context: variables and a directory that stay from one run to the next. It ends
    when it is closed, and with the sandbox."""
    wanted = NewContext(body.cwd or "", body.env, body.kernel)
    context = await while_connected(request, codes.create(caller, sandbox_id, wanted))
    return _json(context)


@router.get("/contexts")
async def list_contexts(sandbox_id: str, codes: TheCodes, caller: TheCaller) -> ContextList:
    """The oldest first."""
    found = codes.list(caller, sandbox_id)
    return ContextList(contexts=tuple(described(context) for context in found))


@router.get("/contexts/{context}")
async def get_context(
    sandbox_id: str, context: str, codes: TheCodes, caller: TheCaller
) -> ContextInfo:
    """One context."""
    return described(codes.find(caller, sandbox_id, context))


@router.delete("/contexts/{context}")
async def close(sandbox_id: str, context: str, codes: TheCodes, caller: TheCaller) -> ContextInfo:
    """End it, with what runs in it and all that it started."""
    return described(codes.close(caller, sandbox_id, context))


@router.post("/contexts/{context}/interrupt", openapi_extra=_EMPTY)
async def interrupt(
    sandbox_id: str, context: str, codes: TheCodes, caller: TheCaller
) -> ContextInfo:
    """Raise KeyboardInterrupt in what runs, and send SIGINT to the programs that it waits for.
    Answers when that was sent; nothing happens where nothing runs."""
    return described(codes.interrupt(caller, sandbox_id, context))


@router.post("/contexts/{context}/restart", response_model=ContextInfo, openapi_extra=_EMPTY)
async def restart(
    sandbox_id: str, context: str, request: Request, codes: TheCodes, caller: TheCaller
) -> Response:
    """Begin again without variables. What runs in it, and what waits, ends as `lost`."""
    return _json(await while_connected(request, codes.restart(caller, sandbox_id, context)))


@router.post("/run", response_model=Execution, responses=_RAN)
async def run(
    sandbox_id: str, body: RunCode, request: Request, codes: TheCodes, caller: TheCaller
) -> Response:
    """Run code, after what was asked for in the same context before it. Answers when it has
    ended, or with its events where the client accepts a stream of them. `on_disconnect` says
    whether it is interrupted when the client goes away before."""
    running = await while_connected(request, _begun(codes, caller, sandbox_id, body))
    if running is None:
        return Response(status_code=CLIENT_GONE)
    undo = _attachment(running, body)
    if wants_events(request):
        return event_stream(request, running, undo)
    async with undo:
        execution = await while_connected(request, whole(running))
    if execution is None:
        return Response(status_code=CLIENT_GONE)
    return Response(execution.model_dump_json(), media_type="application/json")


@sockets.websocket("/run/ws")
async def run_over_socket(socket: WebSocket, sandbox_id: str) -> None:
    """The first message is the body of `POST .../run`; any other is an InterruptMessage."""
    codes: Codes = socket.app.state.codes
    caller = caller_of(socket)
    try:
        codes.list(caller, sandbox_id)
    except SandboxError as error:
        await deny(socket, error)
        return
    await socket.accept()
    try:
        async with asyncio.timeout(FIRST_MESSAGE_S):
            body = parsed(await next_message(socket), RunCode)
        running = await _begun(codes, caller, sandbox_id, body)
    except TimeoutError:
        late = f"no first message within {FIRST_MESSAGE_S:g} s"
        await refuse(socket, SandboxError(ErrorCode.INVALID_REQUEST, late))
    except SandboxError as error:
        await refuse(socket, error)
    except WebSocketDisconnect:
        return
    else:
        async with _attachment(running, body):
            await converse(socket, running, _obey(socket, running))


async def _obey(socket: WebSocket, running: Run) -> SandboxError:
    """Returns what is wrong with a message that makes no sense."""
    while True:
        message = await next_message(socket)
        try:
            parsed(message, InterruptMessage)
        except SandboxError as error:
            return error
        running.cancel(SandboxError(ErrorCode.INTERRUPTED, "the run was interrupted"))


async def _begun(codes: Codes, caller: TheCaller, sandbox_id: str, body: RunCode) -> Run:
    wanted = Wanted(body.code, body.timeout_ms)
    return await codes.run(caller, sandbox_id, body.context_id, wanted)


def _attachment(running: Run, body: RunCode) -> AsyncExitStack:
    """What ends with the connection of a client that a run is told to."""
    undo = AsyncExitStack()
    if body.on_disconnect == "cancel":
        undo.callback(lambda: running.cancel(client_gone()))
    undo.callback(running.leave)
    return undo


def described(context: Context) -> ContextInfo:
    error = error_fields(context.error)
    state = "busy" if context.running is not None else "idle"
    return ContextInfo.model_validate(
        {
            "context_id": context.id,
            "language": "python",
            "kernel": context.kernel,
            "cwd": context.cwd,
            "state": "dead" if error else state,
            "created_ms": context.created_ms,
            "executions": context.executions,
            "restarts": context.restarts,
            "error": ErrorBody.model_validate(error) if error else None,
        }
    )


def _json(context: Context | None) -> Response:
    """None: the client has gone."""
    if context is None:
        return Response(status_code=CLIENT_GONE)
    return Response(described(context).model_dump_json(), media_type="application/json")
