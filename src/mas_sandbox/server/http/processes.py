"""The endpoints of a sandbox's processes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from mas_sandbox.api.live import (
    OnDisconnect,
    ProcessEvent,
    ProcessInfo,
    ProcessInput,
    ProcessList,
    SignalProcess,
    StartProcess,
    TerminalSize,
    WaitForProcess,
)
from mas_sandbox.api.models import ErrorBody
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..broker import Broker
from ..live.events import error_fields
from ..live.process import LiveProcess, Reader, Wanted
from ..live.processes import Processes
from . import keys
from .at_once import Shortcut
from .execute import made, while_connected
from .reading import body_pieces, json_body
from .routes import PROBLEMS, TheCaller, bearer, caller_of
from .streaming import NDJSON, SSE, event_stream, wants_events
from .strict import StrictRequest
from .strict_route import StrictRoute

KILL_TIMEOUT_S = 10.0
_KEPT_IS_THE_START = (
    "Idempotency-Key: of a process the answer to its start is kept; leave out `wait`, accept "
    "application/json, and ask for its end or its events by its pid"
)

router = APIRouter(
    prefix="/v1/sandboxes/{sandbox_id}/processes",
    route_class=StrictRoute,
    dependencies=[Depends(bearer)],
    responses=PROBLEMS,
    tags=["processes"],
)


async def _processes(request: Request) -> Processes:
    processes: Processes = request.app.state.processes
    return processes


TheProcesses = Annotated[Processes, Depends(_processes)]
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ProcessEvent,
        "description": f"one event after another, as {NDJSON} or {SSE}",
        "content": {NDJSON: {}, SSE: {}},
    }
}
_STARTED: dict[int | str, dict[str, Any]] = {
    200: {
        "model": ProcessInfo,
        "description": f"the process that runs; its events where {NDJSON} or {SSE} is accepted",
        "content": {NDJSON: {}, SSE: {}},
    }
}


@router.post("", responses=_STARTED, openapi_extra=keys.TAKES_KEY)
async def start(
    sandbox_id: str,
    body: StartProcess,
    request: Request,
    processes: TheProcesses,
    caller: TheCaller,
    wait: bool = False,
) -> Response:
    """Start a process. It outlives this request, never the sandbox. Answers at once, or
    with `wait` when it has ended; or with all its events, where the client accepts a stream
    of them: then `on_disconnect` says what becomes of it when the client goes away. With an
    Idempotency-Key it answers at once."""
    attached = wants_events(request)
    if keys.NAME in request.headers:
        if attached or wait:
            raise SandboxError(ErrorCode.INVALID_REQUEST, _KEPT_IS_THE_START)

        async def work(begin: Callable[[], None]) -> dict[str, Any]:
            started, _ = await processes.start(
                caller, sandbox_id, wanted(body), attached=False, begun=begin
            )
            return described(started).model_dump(mode="json")

        broker: Broker = request.app.state.broker
        return await made(request, broker, caller, f"processes of {sandbox_id}", work)
    process, reader = await processes.start(caller, sandbox_id, wanted(body), attached=attached)
    if attached:
        return event_stream(request, reader, attachment(reader, body.on_disconnect))
    if wait:
        await _ended(request, process, None)
    return _json(described(process))


async def _start_at_once(request: StrictRequest) -> Response:
    body = await json_body(request, StartProcess)
    processes, caller = await _processes(request), await caller_of(request)
    return await start(request.path_params["sandbox_id"], body, request, processes, caller)


start_at_once = Shortcut(router.prefix, _start_at_once)


@router.get("")
async def list_processes(
    sandbox_id: str, processes: TheProcesses, caller: TheCaller
) -> ProcessList:
    """Those that run, then the last 64 that have ended."""
    found = processes.list(caller, sandbox_id)
    return ProcessList(processes=tuple(described(process) for process in found))


@router.get("/{process}")
async def get_process(
    sandbox_id: str, process: str, processes: TheProcesses, caller: TheCaller
) -> ProcessInfo:
    """One process, by its id or its tag."""
    return described(processes.find(caller, sandbox_id, process))


@router.get("/{process}/events", responses=_EVENTS)
async def events(
    sandbox_id: str,
    process: str,
    request: Request,
    processes: TheProcesses,
    caller: TheCaller,
    offset: Annotated[int, Query(alias="from", ge=0)] = 0,
    on_disconnect: OnDisconnect = "detach",
) -> Response:
    """Attach: its output so far from an offset on, then what it writes, then its exit. A
    client of server-sent events resumes by `Last-Event-ID`."""
    last = request.headers.get("last-event-id", "")
    if last.isascii() and last.isdigit() and len(last) < 19:
        offset = int(last)
    reader = processes.find(caller, sandbox_id, process).attach(offset)
    return event_stream(request, reader, attachment(reader, on_disconnect))


@router.post(
    "/{process}/stdin",
    openapi_extra={
        "requestBody": {
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "application/json": {"schema": ProcessInput.model_json_schema()},
            }
        }
    },
)
async def stdin(
    sandbox_id: str,
    process: str,
    request: Request,
    processes: TheProcesses,
    caller: TheCaller,
    eof: bool = False,
) -> ProcessInfo:
    """Write to its standard input, as fast as it reads: the body itself, or JSON with
    base64. `eof` closes it afterwards."""
    found = processes.find(caller, sandbox_id, process)
    with found.named.in_use():
        if request.headers.get("content-type", "").startswith("application/json"):
            given = await json_body(request, ProcessInput)
            await found.stream.write(given.data)
            eof = eof or given.eof
        else:
            async for piece in body_pieces(request):
                await found.stream.write(piece)
        if eof:
            found.stream.write_eof()
    return described(found)


@router.post("/{process}/signal")
async def signal(
    sandbox_id: str,
    process: str,
    body: SignalProcess,
    processes: TheProcesses,
    caller: TheCaller,
) -> ProcessInfo:
    """Send a signal to its process group; nothing where it has ended."""
    found = processes.find(caller, sandbox_id, process)
    with found.named.in_use():
        found.stream.signal(body.signal)
    return described(found)


@router.post("/{process}/resize")
async def resize(
    sandbox_id: str,
    process: str,
    body: TerminalSize,
    processes: TheProcesses,
    caller: TheCaller,
) -> ProcessInfo:
    """Tell its terminal its size."""
    found = processes.find(caller, sandbox_id, process)
    if found.wanted.pty is None:
        raise SandboxError(
            ErrorCode.INVALID_REQUEST, "this process has no terminal; start it with pty"
        )
    with found.named.in_use():
        found.stream.resize(body.rows, body.cols)
    return described(found)


@router.post("/{process}/wait")
async def wait(
    sandbox_id: str,
    process: str,
    body: WaitForProcess,
    request: Request,
    processes: TheProcesses,
    caller: TheCaller,
) -> ProcessInfo:
    """Answer when it has ended, or when the time is up."""
    found = processes.find(caller, sandbox_id, process)
    await _ended(request, found, body.timeout_ms / 1000 or None)
    return described(found)


@router.delete("/{process}")
async def kill(
    sandbox_id: str,
    process: str,
    request: Request,
    processes: TheProcesses,
    caller: TheCaller,
) -> ProcessInfo:
    """End it and all that it started. It stays in the list."""
    found = processes.find(caller, sandbox_id, process)
    with found.named.in_use():
        found.stream.cancel()
    await _ended(request, found, KILL_TIMEOUT_S)
    return described(found)


async def _ended(request: Request, process: LiveProcess, timeout_s: float | None) -> None:
    """Return when it has ended, the time is up, or the client is gone; its state tells."""
    with process.named.in_use(), contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await while_connected(request, process.wait())


def wanted(body: StartProcess) -> Wanted:
    return Wanted(
        argv=list(body.argv),
        cmd=body.cmd,
        cwd=body.cwd,
        env=body.env,
        user=body.user,
        pty=(body.pty.rows, body.pty.cols) if body.pty else None,
        tag=body.tag,
        timeout_ms=body.timeout_ms,
        stdin=body.stdin,
    )


def attachment(reader: Reader, on_disconnect: OnDisconnect) -> AsyncExitStack:
    """What ends with the connection of a client that reads a process's events."""
    with ExitStack() as undo:
        undo.enter_context(reader)
        undo.enter_context(reader.process.named.in_use())
        if on_disconnect == "cancel":
            undo.callback(reader.process.stream.cancel)
        kept = AsyncExitStack()
        kept.push(undo.pop_all())
        return kept


def described(process: LiveProcess) -> ProcessInfo:
    ending, asked = process.ending, process.wanted
    error = error_fields(ending.error) if ending else None
    return ProcessInfo(
        pid=process.pid,
        tag=asked.tag,
        argv=tuple(asked.argv),
        cmd=asked.cmd,
        cwd=process.cwd,
        pty=asked.pty is not None,
        state="exited" if ending else "running",
        started_ms=process.started_ms,
        ended_ms=process.ended_ms,
        exit_code=ending.exit_code if ending else None,
        signal=ending.signal if ending else None,
        error=ErrorBody.model_validate(error) if error else None,
        output_from=process.ring.start,
        output_to=process.ring.end,
    )


def _json(info: ProcessInfo) -> Response:
    return Response(info.model_dump_json(), media_type="application/json")
