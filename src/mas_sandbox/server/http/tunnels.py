"""WebSockets that are one TCP connection to a port of a sandbox each."""

from __future__ import annotations

import asyncio
import contextlib

from fastapi import APIRouter, WebSocket

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..calls import Caller
from ..listen import MAX_PORT
from ..live.ports import Connection, Ports
from .ports_socket import BAD_GATEWAY, closing
from .problems import problem_of

DONE, REFUSED = 1000, 1008
"""Close codes (RFC 6455, section 7.4.1)."""

router = APIRouter(prefix="/v1/sandboxes/{sandbox_id}/tunnels")


@router.websocket("/{port}")
async def tunnel(socket: WebSocket, sandbox_id: str, port: str) -> None:
    """A binary message is bytes of the connection; an empty one ends its direction. Refused
    like any request where nothing listens; closed when the server has ended its direction."""
    ports: Ports = socket.app.state.ports
    caller: Caller = socket.state.caller
    accepted = False
    try:
        async with ports.connection(caller, sandbox_id, _number(port)) as connection:
            await connection.opened()
            await socket.accept()
            accepted = True
            with contextlib.suppress(OSError):  # the client went away while it was told
                await _relay(socket, connection)
    except SandboxError as error:
        if not accepted:
            await socket.send_denial_response(problem_of(error))
            return
        refused = error.code is ErrorCode.INVALID_REQUEST
        with contextlib.suppress(OSError, RuntimeError):
            await socket.send(closing(REFUSED if refused else BAD_GATEWAY, error.message))


def _number(port: str) -> int:
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 1 <= int(port) <= MAX_PORT):
        raise SandboxError(ErrorCode.INVALID_REQUEST, f"a port is a number up to {MAX_PORT}")
    return int(port)


async def _relay(socket: WebSocket, connection: Connection) -> None:
    """Until the server has ended its direction, or the client is gone. Raises SandboxError."""
    down = asyncio.create_task(_down(socket, connection))
    up = asyncio.create_task(_up(socket, connection))
    try:
        await asyncio.wait((down, up), return_when=asyncio.FIRST_COMPLETED)
        (down if down.done() else up).result()
    finally:
        for task in (down, up):
            task.cancel()
        await asyncio.gather(down, up, return_exceptions=True)


async def _down(socket: WebSocket, connection: Connection) -> None:
    while data := await connection.read():
        await socket.send_bytes(data)
    await socket.send_bytes(b"")
    await socket.close(DONE)


async def _up(socket: WebSocket, connection: Connection) -> None:
    """Until the client is gone."""
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        data = message.get("bytes")
        if data is None:
            raise SandboxError(
                ErrorCode.INVALID_REQUEST, "a tunnel takes binary messages; this one was text"
            )
        if data:
            await connection.write(data)
        else:
            connection.write_eof()
