"""WebSockets: the events of a process or a directory, and input for the process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, ValidationError
from starlette.websockets import WebSocketDisconnect

from mas_sandbox.api.live import (
    EofMessage,
    KillMessage,
    OnDisconnect,
    ProcessMessage,
    ResizeMessage,
    SignalMessage,
    StartProcess,
    StdinMessage,
)
from mas_sandbox.policy.model import problem_text
from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..calls import Caller
from ..live.files import Files
from ..live.process import LiveProcess
from ..live.processes import Processes
from .problems import problem_of
from .processes import attachment, wanted
from .streaming import Events, all_events, failed

FIRST_MESSAGE_S = 10.0
DONE, REFUSED = 1000, 1008
"""Close codes (RFC 6455, section 7.4.1)."""

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}")
Model = TypeVar("Model", bound=BaseModel)


@router.websocket("/processes/ws")
async def start(socket: WebSocket, sandbox_id: str) -> None:
    """The first message is the body of `POST .../processes`."""
    processes, caller = _processes(socket), caller_of(socket)
    try:
        processes.list(caller, sandbox_id)
    except SandboxError as error:
        await deny(socket, error)
        return
    await socket.accept()
    try:
        async with asyncio.timeout(FIRST_MESSAGE_S):
            body = parsed(await next_message(socket), StartProcess)
        process, reader = await processes.start(caller, sandbox_id, wanted(body), attached=True)
        undo = attachment(reader, body.on_disconnect)
    except TimeoutError:
        late = SandboxError(
            ErrorCode.INVALID_REQUEST, f"no first message within {FIRST_MESSAGE_S:g} s"
        )
        await refuse(socket, late)
    except SandboxError as error:
        await refuse(socket, error)
    except WebSocketDisconnect:
        return
    else:
        async with undo:
            await converse(socket, reader, _obey(socket, process))


@router.websocket("/processes/{process}/ws")
async def attach(socket: WebSocket, sandbox_id: str, process: str) -> None:
    """Attach. The query is that of `GET .../events`."""
    try:
        offset, on_disconnect = _query(socket)
        found = _processes(socket).find(caller_of(socket), sandbox_id, process)
        reader = found.attach(offset)
        undo = attachment(reader, on_disconnect)
    except SandboxError as error:
        await deny(socket, error)
        return
    async with undo:
        await socket.accept()
        await converse(socket, reader, _obey(socket, found))


@router.websocket("/files/watch/ws")
async def watch(socket: WebSocket, sandbox_id: str) -> None:
    """Watch a directory. The query is that of `GET .../files/watch`."""
    files: Files = socket.app.state.files
    query = socket.query_params
    path, recursive = query.get("path", ""), query.get("recursive", "") in ("1", "true")
    undo = AsyncExitStack()
    try:
        changes = await undo.enter_async_context(
            files.watching(caller_of(socket), sandbox_id, path, recursive)
        )
    except SandboxError as error:
        await deny(socket, error)
        return
    with contextlib.suppress(SandboxError):  # the client was told, or has gone
        async with undo:
            await socket.accept()
            await converse(socket, changes, _obey(socket, None))


def _processes(socket: WebSocket) -> Processes:
    processes: Processes = socket.app.state.processes
    return processes


def caller_of(socket: WebSocket) -> Caller:
    caller: Caller = socket.state.caller
    return caller


async def deny(socket: WebSocket, error: SandboxError) -> None:
    """Answer the handshake with the problem, as any request's."""
    await socket.send_denial_response(problem_of(error))


async def refuse(socket: WebSocket, error: SandboxError) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        await socket.send_text(failed(error).body.decode())
        await socket.close(REFUSED)


async def converse(
    socket: WebSocket, events: Events, obeying: Coroutine[Any, Any, SandboxError]
) -> None:
    """Tell all events and obey all messages, until either ends. Neither closes the socket:
    the other may be about to send. `obeying`: until there is one that makes no sense."""
    tasks = (
        asyncio.create_task(_tell(socket, events)),
        asyncio.create_task(obeying),
    )
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        told, refusal = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in (told, refusal):
        if isinstance(outcome, WebSocketDisconnect):
            return
        if isinstance(outcome, Exception) and not isinstance(outcome, SandboxError):
            raise outcome
    if isinstance(refusal, SandboxError):
        await refuse(socket, refusal)
    else:
        with contextlib.suppress(WebSocketDisconnect):
            await socket.close(DONE)


async def _tell(socket: WebSocket, events: Events) -> None:
    async for happened in all_events(events):
        await socket.send_text(happened.body.decode())


async def _obey(socket: WebSocket, process: LiveProcess | None) -> SandboxError:
    """Returns what is wrong with a message that makes no sense."""
    while True:
        message = await next_message(socket)
        try:
            if process is None:
                raise SandboxError(ErrorCode.INVALID_REQUEST, "a watch takes no messages")
            if isinstance(message, bytes):
                await _write(socket, process, message)
            else:
                await _act(socket, process, parsed(message, ProcessMessage))
        except SandboxError as error:
            return error


async def _act(socket: WebSocket, process: LiveProcess, message: ProcessMessage) -> None:
    match message.root:
        case StdinMessage(data=data):
            await _write(socket, process, data)
        case EofMessage():
            process.stream.write_eof()
        case SignalMessage(signal=number):
            process.stream.signal(number)
        case ResizeMessage(rows=rows, cols=columns):
            process.stream.resize(rows, columns)
        case KillMessage():
            process.stream.cancel()


async def _write(socket: WebSocket, process: LiveProcess, data: bytes) -> None:
    """A process that reads no more is told of, and goes on: its output still comes."""
    try:
        await process.stream.write(data)
    except SandboxError as error:
        await socket.send_text(failed(error).body.decode())


async def next_message(socket: WebSocket) -> str | bytes:
    """Raises WebSocketDisconnect."""
    received = await socket.receive()
    if received["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(received["code"])
    text, data = received.get("text"), received.get("bytes")
    return text if text is not None else bytes(data or b"")


def parsed(message: str | bytes, model: type[Model]) -> Model:
    """Raises SandboxError `invalid_request`."""
    try:
        return model.model_validate(strict_json.loads(message))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the message"
        text = f"{where}: {problem_text(first['msg'])}"
    except ValueError as error:
        text = f"the message is refused: {error}"
    raise SandboxError(ErrorCode.INVALID_REQUEST, text)


def _query(socket: WebSocket) -> tuple[int, OnDisconnect]:
    """Raises SandboxError `invalid_request`."""
    offset = socket.query_params.get("from", "0")
    on_disconnect = socket.query_params.get("on_disconnect", "detach")
    if not (offset.isascii() and offset.isdigit() and len(offset) < 19):
        raise SandboxError(ErrorCode.INVALID_REQUEST, "from: write the offset as a number")
    match on_disconnect:
        case "detach" | "cancel":
            return int(offset), on_disconnect
        case _:
            raise SandboxError(ErrorCode.INVALID_REQUEST, "on_disconnect: detach or cancel")
