"""Runs the HTTP door: the event loop, signals, and what the operator is told."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import uvicorn
import uvloop
from starlette.types import ASGIApp

from ..assembly import Daemon
from ..auth import Authenticator
from ..daemon import running
from ..layers import base_policy
from ..listen import BACKLOG, HostNames, bind, parse_address
from ..main import warn_of_no_walls
from ..settings import Settings
from .app import Door, build_app
from .protocol import BoundedProtocol

KEEP_ALIVE_S = 15
MAX_MESSAGE = 256 * 1024
"""Bytes of one WebSocket message."""
_GIVE_WAY_S = 0.0005
"""For how long a thread goes on that another waits for, in seconds; CPython's own is ten times
that, and a request waits several times."""
LAST_WORDS_S = 2
"""How long written answers may take to leave, once every call has ended."""
_HEADERS = [("x-content-type-options", "nosniff"), ("cache-control", "no-store")]


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises SandboxError for what start-up lacks."""
    _raise_open_files()
    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    assert settings.listen is not None
    address = parse_address(settings.listen)
    async with running(settings) as daemon:
        authenticator = Authenticator(
            base_policy(daemon.broker.runtime.name),
            daemon.local.policy,
            settings.auth_token,
            daemon.policy_file,
        )
        with bind(address, authenticator.required, settings.auth_token) as listener:
            names = HostNames(settings.allowed_hosts, settings.ports_domain)
            app = build_app(daemon.broker, authenticator, names)
            server = build_server(app)
            gc.freeze()  # what start-up made stays: no collection need look at it again
            ready = partial(_announce, daemon, listener, address.host, authenticator.required)
            await _until_signalled(app, server, daemon, listener, settings.drain_timeout_s, ready)


def build_server(app: ASGIApp) -> Server:
    """uvicorn with every bound set."""
    return Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws=cast("type[asyncio.Protocol]", _websocket),  # it is called, and nothing else
            ws_max_size=MAX_MESSAGE,
            ws_per_message_deflate=False,  # a message is as large as it says
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            headers=_HEADERS,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=LAST_WORDS_S + 1,  # an answered upload lingers that long
        )
    )


def _websocket(**given: Any) -> asyncio.Protocol:
    """uvicorn's `websockets-sansio`, which is imported for the first who asks for it."""
    from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

    return WebSocketsSansIOProtocol(**given)


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers: a signal first drains the broker."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _until_signalled(
    app: Door,
    server: Server,
    daemon: Daemon,
    listener: socket.socket,
    grace_s: float,
    ready: Callable[[], None],
) -> None:
    """The first signal lets calls finish within `grace_s`; the second ends them at once.
    `ready`: called when that holds."""
    loop = asyncio.get_running_loop()
    signalled = asyncio.Event()

    def on_signal() -> None:
        if signalled.is_set():
            _say("ending at once")
            daemon.broker.interrupt()
            server.force_exit = True
            loop.call_later(LAST_WORDS_S, os._exit, 1)
        signalled.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    ready()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    building = asyncio.create_task(_build_routes(app))
    building.add_done_callback(partial(_end_without_routes, server))
    stopping = asyncio.create_task(signalled.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    if signalled.is_set():
        _say(f"shutting down: running calls may take {grace_s:g} s more; again to end at once")
        await daemon.broker.drain(grace_s)
        await _last_words(app.state.open_streams)
        server.should_exit = True
    stopping.cancel()
    await serving
    await building


async def _build_routes(app: Door) -> None:
    """While the first requests are answered, for which the thread that builds gives way."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_GIVE_WAY_S)
    gc.disable()
    try:
        await app.routes.built()
    finally:
        gc.freeze()
        gc.enable()
        sys.setswitchinterval(usual)


def _end_without_routes(server: Server, building: asyncio.Task[None]) -> None:
    """A daemon without most of its routes is none; `_until_signalled` raises why."""
    if building.cancelled() or building.exception() is not None:
        server.should_exit = True


async def _last_words(streams: set[asyncio.Task[None]]) -> None:
    """Streams tell how they ended; a client that does not listen is not waited for."""
    if streams:
        await asyncio.wait(streams, timeout=LAST_WORDS_S)
    for stream in streams:
        stream.cancel()


def _raise_open_files() -> None:
    """Each connection and each sandbox holds descriptors; the soft limit is often 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _announce(daemon: Daemon, listener: socket.socket, host_given: str, asked: bool) -> None:
    host, port = listener.getsockname()[:2]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    alone = "" if host_given or asked else " (this machine only: there is no token)"
    runtime = daemon.broker.runtime
    lines = [
        f"listening  http://{place}{alone}",
        f"runtime    {runtime.name} (isolation: {runtime.isolation})",
        f"auth       {'bearer token' if asked else 'none'}",
        f"policy     {daemon.policy_source}",
        f"audit      {daemon.audit_path}",
        f"docs       http://{place}/docs",
    ]
    _say("ready\n  " + "\n  ".join(lines))
    warn_of_no_walls(daemon)


def _say(text: str) -> None:
    sys.stderr.write(f"mas-sandboxd: {text}\n")
    sys.stderr.flush()
