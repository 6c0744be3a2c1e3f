"""`mas-sandbox port-forward`: servers in a sandbox, on ports of this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mas_sandbox.sdk.errors import InvalidRequest
from mas_sandbox.wire.errors import SandboxError

from .chosen import DaemonUrl, SandboxId, Token
from .screen import complain, visible

if TYPE_CHECKING:
    from mas_sandbox.sdk import AsyncSandbox, AsyncTunnel

_PIECE = 65536


def port_forward(
    sandbox: SandboxId,
    /,
    *ports: Annotated[
        str,
        Parameter(help="A port in the sandbox, or LOCAL:PORT; LOCAL 0 takes a free one."),
    ],
    address: Annotated[str, Parameter(help="Where to listen.")] = "127.0.0.1",
    url: DaemonUrl = None,
    token: Token = None,
) -> int:
    """Reach servers in a sandbox through ports of this machine, until Ctrl-C."""
    if not ports:
        raise InvalidRequest("say which port: mas-sandbox port-forward SANDBOX [LOCAL:]PORT...")
    wanted = [port_pair(text) for text in ports]
    asyncio.run(_forward(sandbox, wanted, address, url, token))
    return 0


def port_pair(text: str) -> tuple[int, int]:
    """(port here, port in the sandbox); raises InvalidRequest.

    >>> port_pair("8000"), port_pair("0:8000")
    ((8000, 8000), (0, 8000))
    """
    here, _, inside = text.rpartition(":")
    try:
        pair = int(here or inside), int(inside)
    except ValueError:
        pair = -1, -1
    if not (0 <= pair[0] < 65536 and 0 < pair[1] < 65536):
        raise InvalidRequest(f"{text!r} is no port, such as 8000, or 9000:8000")
    return pair


async def _forward(
    sandbox: str, ports: list[tuple[int, int]], address: str, url: str | None, token: str | None
) -> None:
    from mas_sandbox.sdk import AsyncSandbox

    async with AsyncExitStack() as undo:
        place = await undo.enter_async_context(await AsyncSandbox.connect(sandbox, url, token))
        for here, inside in ports:
            forwarding = Forwarding(place, inside)
            try:
                server = await asyncio.start_server(forwarding.serve, address, here)
            except OSError as exc:
                raise InvalidRequest(
                    f"cannot listen on {address}:{here} ({os.strerror(exc.errno or 0)}); "
                    f"choose another port, such as 0:{inside} for a free one"
                ) from exc
            undo.push_async_callback(forwarding.close)
            undo.callback(server.close)
            where, chosen = server.sockets[0].getsockname()[:2]
            _say(f"{where}:{chosen} -> {sandbox} port {inside}")
        await _told_to_end()


async def _told_to_end() -> None:
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()


class Forwarding:
    """One port of a sandbox; a tunnel for each connection that comes in."""

    def __init__(self, place: AsyncSandbox, port: int) -> None:
        self._place = place
        self._port = port
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            async with await self._place.ports.connect(self._port) as tunnel:
                await _both_ways(tunnel, reader, writer)
        except SandboxError as error:
            complain(f"port {self._port}: {error.message}")
        except (OSError, asyncio.CancelledError):
            pass  # the other side has left, or we do
        finally:
            self._serving.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def close(self) -> None:
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def _both_ways(
    tunnel: AsyncTunnel, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Until both directions have ended, each of its own."""

    async def up() -> None:
        while data := await reader.read(_PIECE):
            await tunnel.write(data)
        await tunnel.write_eof()

    async def down() -> None:
        while data := await tunnel.read():
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()

    tasks = asyncio.create_task(up()), asyncio.create_task(down())
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _say(message: str) -> None:
    print(visible(message), flush=True, file=sys.stderr)  # noqa: T201
