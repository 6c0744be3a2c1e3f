"""One request, as bytes on a connection of its own: sent in part, read in part, broken off."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from place import BEARER
from running_daemon import RunningDaemon

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER, socket(7): closing sends RST, as a client's death does."""


class Conversation:
    """`length`: of the whole body, where `body` is only its beginning."""

    def __init__(
        self,
        running: RunningDaemon,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        accept: str = "*/*",
        kind: str = "application/json",
        length: int | None = None,
    ) -> None:
        place = urlsplit(running.url)
        assert place.hostname is not None
        self._socket = socket.create_connection((place.hostname, place.port or 0), timeout=10)
        self._answer = http.client.HTTPResponse(self._socket, method=method)
        self._seen = b""
        head = [
            f"{method} {path} HTTP/1.1",
            f"host: {place.netloc}",
            f"authorization: {BEARER['authorization']}",
            f"accept: {accept}",
            f"content-type: {kind}",
            f"content-length: {len(body) if length is None else length}",
        ]
        self._socket.sendall("\r\n".join([*head, "", ""]).encode() + body)

    def push(self) -> None:
        """Send more of the body, until nobody takes it any more."""
        self._socket.settimeout(0.3)
        with suppress(TimeoutError):
            while True:
                self._socket.sendall(bytes(65536))
        self._socket.settimeout(10)

    def until(self, wanted: bytes) -> None:
        """Read of the answer until this is in it."""
        if not self._seen:
            self._answer.begin()
        while wanted not in self._seen:
            piece = self._answer.read1(4096)
            assert piece, self._seen
            self._seen += piece

    def abort(self) -> None:
        """Go away without a word."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._answer.close()
        self._socket.close()

    def end(self, within_s: float) -> str:
        """How it ends, in a few words: see `said`. `lost`: with the connection, in the middle
        of its answer or before it."""
        deadline = time.monotonic() + within_s
        self._socket.settimeout(within_s)
        try:
            if not self._seen:
                self._answer.begin()
            while piece := self._answer.read1(1 << 20):
                self._seen = (self._seen + piece)[-(1 << 20) :]
                assert time.monotonic() < deadline, "it goes on for too long"
            if self._answer.length:  # read1 does not tell
                return "lost"
        except (http.client.IncompleteRead, http.client.BadStatusLine, ConnectionError):
            return "lost"
        finally:
            self._answer.close()
            self._socket.close()
        kind, status = self._answer.headers["content-type"], self._answer.status
        if not any(word in kind for word in ("json", "event-stream")):
            return f"{status}"
        return said(status, json.loads(self._seen.strip().splitlines()[-1].removeprefix(b"data: ")))


class Terminal:
    """The same over a WebSocket. `begin`: its first message."""

    def __init__(
        self, running: RunningDaemon, path: str, begin: dict[str, Any] | bytes | None
    ) -> None:
        url = f"ws://{urlsplit(running.url).netloc}{path}"
        opening = connect(url, additional_headers=BEARER, compression=None, close_timeout=1)
        self._socket = opening.__enter__()
        if begin is not None:
            self._socket.send(begin if isinstance(begin, bytes) else json.dumps(begin))

    def until(self, wanted: bytes) -> None:
        while wanted not in str(self._socket.recv(10)).encode():
            pass

    def abort(self) -> None:
        self._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._socket.socket.close()
        self._socket.close()

    def end(self, within_s: float) -> str:
        last, deadline = "", time.monotonic() + within_s
        try:
            while True:
                message = self._socket.recv(deadline - time.monotonic())
                last = said(200, json.loads(message)) if isinstance(message, str) else ""
        except ConnectionClosed as closed:
            return "lost" if closed.rcvd is None else last or f"closed {closed.rcvd.code}"


def said(status: int, body: dict[str, Any]) -> str:
    """`200 exit guest_lost`: the status, what is told of, and the code of its error."""
    error = body.get("error") or {}
    kind = body.get("type") or body.get("state") or body.get("status") or ""
    return " ".join(filter(None, (str(status), kind, error.get("code"))))
