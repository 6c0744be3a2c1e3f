"""uvicorn's HTTP protocol with the bounds that it leaves open.

The parser (llhttp) refuses ambiguous framing by itself: Content-Length beside
Transfer-Encoding, unknown transfer codings, bare line feeds, folded headers. What
it does not bound is how long and how large a request's head may be, and how many
connections may be open.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mas_sandbox.wire.errors import ErrorCode

from .problems import problem

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
HEAD_TIMEOUT_S = 10.0
MAX_CONNECTIONS = 8192
_CHUNK_OVERHEAD = 8
"""Framing bytes allowed per byte of a chunked body: chunks of one byte have five."""


class BoundedProtocol(HttpToolsProtocol):
    """Ends a connection whose request head is too large or too slow; makes room for a
    new connection by closing the one that has been idle."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._framing = 0  # bytes received that were not body
        self._refusal = (400, "the request is not valid HTTP/1.1")
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS and not self._close_an_idle_one():
            transport.abort()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._framing += len(data)
        super().data_received(data)
        if self._framing > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, f"the request's framing has over {MAX_HEAD_BYTES} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:
            self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_head_timer()
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._refusal = (
                431,
                f"the request head has over {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers",
            )
            raise httptools.HttpParserError(self._refusal[1])
        self._framing = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._framing = max(0, self._framing - (1 + _CHUNK_OVERHEAD) * len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._framing = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser gives up; the words are ours."""
        self._refuse(*self._refusal)

    def _refuse(self, status: int, message: str) -> None:
        reply = problem(status, ErrorCode.INVALID_REQUEST, message, {"connection": "close"})
        head = [b"HTTP/1.1 %d Refused\r\n" % status]
        head += [name + b": " + value + b"\r\n" for name, value in reply.raw_headers]
        self.transport.write(b"".join(head) + b"\r\n" + bytes(reply.body))
        self.transport.close()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            if self._framing:
                self._refuse(408, f"the request head did not arrive within {HEAD_TIMEOUT_S:g} s")
            else:
                self.transport.close()

    def _close_an_idle_one(self) -> bool:
        for other in self.connections:
            if not isinstance(other, HttpToolsProtocol) or other is self:
                continue  # a WebSocket is never idle: it has its own heartbeat
            if other.cycle is None or other.cycle.response_complete:
                other.transport.abort()
                return True
        return False
