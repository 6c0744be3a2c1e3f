"""Answers that are sent as they come into being, no faster than the client takes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..live.events import KEEP_ALIVE, Event, error_fields, event

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 15.0
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"


class Events(Protocol):
    """Where events come from."""

    async def next(self) -> Event | None:
        """The next one, None after the last; cancelling it loses nothing."""


class Streamed(Response):
    """Sends `pieces`, then leaves `undo`; leaves it at once when the client goes away."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        undo: AsyncExitStack,
        media_type: str,
        headers: dict[str, str] | None = None,
        status: int = 200,
    ) -> None:
        super().__init__(None, status, headers, media_type)
        # Unless it was given, the length is not known: the body is sent in chunks.
        if headers is None or "content-length" not in headers:
            del self.headers["content-length"]
        self._pieces = pieces
        self._undo = undo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        open_streams: set[asyncio.Task[None]] = scope["app"].state.open_streams
        open_streams.add(sending)
        sending.add_done_callback(open_streams.discard)
        leaving = asyncio.create_task(_gone(receive))
        try:
            async with self._undo:
                await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    raise SandboxError(ErrorCode.INTERRUPTED, "the client went away")
                if sending.cancelled():
                    raise SandboxError(ErrorCode.INTERRUPTED, "the daemon is shutting down")
                sending.result()
        except SandboxError as error:
            # The status is out: an answer that breaks off is all that can be told.
            log.info("a stream was cut off: %s", error.message)
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait((sending, leaving))

    async def _send(self, send: Send) -> None:
        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def event_stream(request: Request, events: Events, undo: AsyncExitStack) -> Streamed:
    """As server-sent events where the client asks for them, else as NDJSON."""
    if SSE in request.headers.get("accept", ""):
        return Streamed(encoded(events, _server_sent), undo, SSE)
    return Streamed(encoded(events, _line), undo, NDJSON)


def wants_events(request: Request) -> bool:
    accept = request.headers.get("accept", "")
    return SSE in accept or NDJSON in accept


async def all_events(events: Events) -> AsyncIterator[Event]:
    """All of them, with a sign of life when nothing happens for long; what breaks them off
    is told as the last one."""
    while True:
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                happened = await events.next()
        except TimeoutError:
            happened = KEEP_ALIVE
        except SandboxError as error:
            yield failed(error)
            return
        if happened is None:
            return
        yield happened


def failed(error: SandboxError) -> Event:
    return event("error", {"error": error_fields(error)})


async def encoded(events: Events, encode: Callable[[Event], bytes]) -> AsyncIterator[bytes]:
    async for happened in all_events(events):
        yield encode(happened)


def _line(happened: Event) -> bytes:
    return happened.body + b"\n"


def _server_sent(happened: Event) -> bytes:
    """As the HTML standard's section 9.2 has it; `id` is what a client sends to resume."""
    told = b"event: %b\ndata: %b\n\n" % (happened.kind.encode(), happened.body)
    return told if happened.resume is None else b"id: %d\n%b" % (happened.resume, told)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
