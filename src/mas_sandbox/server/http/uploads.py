"""Bodies that a route reads as they come: bounded by what they are for, and by a rate."""

from __future__ import annotations

import asyncio
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import TooSlow

PATIENCE_S = 10.0
"""How long a body may keep us waiting, and one second more for each `MIN_RATE` bytes."""
MIN_RATE = 8 * 1024
_LINGER_S = 2.0
_STREAMED = re.compile(
    r"PUT /v1/sandboxes/[^/]+/files(/archive)?|POST /v1/sandboxes/[^/]+/processes/[^/]+/stdin"
)


def is_streamed(scope: Scope) -> bool:
    """Whether the route reads the body itself. Of POST only with a type that no page of
    another origin can send without being asked about it first."""
    if _STREAMED.fullmatch(f"{scope['method']} {scope['path']}") is None:
        return False
    if scope["method"] == "PUT":
        return True
    return any(
        name == b"content-type" and value.strip().lower() == b"application/octet-stream"
        for name, value in scope["headers"]
    )


class Paced:
    """Lets the route read the body itself. Only the time that the client makes us wait
    counts, not what the sandbox takes to put it away."""

    def __init__(self, app: ASGIApp, patience_s: float = PATIENCE_S) -> None:
        self._app = app
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = _Body(receive, self._patience_s)

        async def last_words(message: Message) -> None:
            """An answer that comes before the end of the body is the connection's last; what
            still arrives is taken in for a moment, else it would be lost to a reset."""
            if not body.ended and message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            if body.ended or message.get("more_body", False) or "body" not in message:
                await send(message)
                return
            await send({**message, "more_body": True})
            await body.swallow(_LINGER_S)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, body.receive, last_words)


class _Body:
    """One body, as it arrives."""

    def __init__(self, receive: Receive, patience_s: float) -> None:
        self.ended = False
        self._receive = receive
        self._patience_s = patience_s

    async def receive(self) -> Message:
        if self.ended:
            return await self._receive()
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(self._patience_s):
                message = await self._receive()
        except TimeoutError as error:
            raise TooSlow(MIN_RATE) from error
        self._patience_s += len(message.get("body", b"")) / MIN_RATE - (loop.time() - began)
        self.ended = not message.get("more_body", False)
        return message

    async def swallow(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not self.ended:
                    message = await self._receive()
                    self.ended = not message.get("more_body", False)
        except TimeoutError:
            self.ended = True
