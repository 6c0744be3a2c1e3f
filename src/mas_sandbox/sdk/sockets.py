"""WebSockets to a daemon: where they are, and what their failures mean."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from websockets.exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    WebSocketException,
)

from . import http
from .errors import BadReply, CallError, DaemonLost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from websockets.asyncio.client import ClientConnection as AsyncClientConnection
    from websockets.sync.client import ClientConnection

MESSAGE = 128 * 1024
"""Bytes of one message to the daemon at most; it takes twice as many."""
OPEN_S = 30.0
FAILURES = (OSError, WebSocketException, ValueError)


def connect(url: str, path: str, headers: Mapping[str, str]) -> ClientConnection:
    """Raises CallError."""
    from websockets.sync.client import connect as connect_websocket

    where = urlsplit(url)
    try:
        opening = connect_websocket(
            _websocket(url) + path,
            additional_headers=headers,
            compression=None,
            proxy=None,
            open_timeout=OPEN_S,
            # Said once more, so that no redirect leads elsewhere.
            address=(where.hostname, _port(where)),
        )
        return opening.__enter__()  # whoever gets it closes it
    except FAILURES as exc:
        raise refused(exc, url) from exc


async def connect_async(url: str, path: str, headers: Mapping[str, str]) -> AsyncClientConnection:
    """Raises CallError."""
    from websockets.asyncio.client import connect as connect_websocket

    where = urlsplit(url)
    try:
        return await connect_websocket(
            _websocket(url) + path,
            additional_headers=headers,
            compression=None,
            proxy=None,
            open_timeout=OPEN_S,
            host=where.hostname,
            port=_port(where),
        )
    except FAILURES as exc:
        raise refused(exc, url) from exc


def hang_up(socket: ClientConnection) -> None:
    """Say goodbye, and take what is still on its way: the answer comes behind it."""
    closing = threading.Thread(target=socket.close, name="goodbye to a sandbox", daemon=True)
    closing.start()
    with suppress(ConnectionClosed, ConcurrencyError):
        while True:
            socket.recv(decode=False)
    closing.join()


async def hang_up_async(socket: AsyncClientConnection) -> None:
    """`hang_up` for asyncio."""
    closing = asyncio.create_task(socket.close())
    with suppress(ConnectionClosed, ConcurrencyError):
        while True:
            await socket.recv(decode=False)
    await closing


def refused(exc: Exception, url: str) -> CallError:
    """What a handshake that failed means."""
    match exc:
        case InvalidStatus(response=response):
            retry_after = response.headers.get("retry-after")
            content = bytes(response.body or b"")
            return http.refusal(response.status_code, content, url, retry_after)
        case InvalidHandshake() | ValueError():  # the latter for a redirect elsewhere
            return BadReply(f"{url} does not speak WebSocket as mas-sandboxd does: {exc}")
        case _:
            return http.unreachable(exc, url)


def lost(exc: ConnectionClosed, url: str) -> DaemonLost:
    """What a connection means that ended before its time."""
    return DaemonLost(f"the connection to {url} broke ({exc}); what was sent may have been obeyed")


def messages_of(data: bytes) -> Iterator[bytes]:
    """Cut so that the daemon takes each.

    >>> [len(message) for message in messages_of(bytes(300_000))]
    [131072, 131072, 37856]
    """
    return (data[start : start + MESSAGE] for start in range(0, len(data), MESSAGE))


def _websocket(url: str) -> str:
    """
    >>> _websocket("https://sandbox.example")
    'wss://sandbox.example'
    """
    return "ws" + url.removeprefix("http")


def _port(where: SplitResult) -> int:
    return where.port or (443 if where.scheme == "https" else 80)
