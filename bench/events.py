"""A client that reads the events of processes as bytes, as fast as they come.

It decodes nothing, so that a figure is the daemon's: decoding base64 takes Python longer
than the daemon takes to make it.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .places import Place

_END = b"\r\n0\r\n\r\n"
_JSON = "application/json"
_LENGTH = re.compile(rb"(?im)^content-length: *(\d+)")
_TIMEOUT_S = 60.0


class Connection:
    """One connection to a daemon, of one request after another."""

    def __init__(self, place: Place, connected: socket.socket) -> None:
        self._place = place
        self._socket = connected
        self._buffer = bytearray(1 << 20)

    def create(self) -> str:
        """A named sandbox."""
        self._request("POST", "/v1/sandbox/create", {})
        reply = self._until(b"}")
        if b"sandbox_id" not in reply:
            raise RuntimeError(f"no sandbox: {reply[-300:].decode(errors='replace')}")
        made = json.loads(reply[reply.index(b"\r\n\r\n") :])
        return str(made["sandbox_id"])

    def start(self, sandbox: str, command: str) -> None:
        """Start it and read its events up to the first output."""
        self._request("POST", f"/v1/sandboxes/{sandbox}/processes", {"cmd": command})
        self._until(b'"stdout"')

    def first_byte(self, sandbox: str) -> float:
        """Milliseconds from the request for `echo hi` to its output."""
        begun = time.perf_counter()
        self._request("POST", f"/v1/sandboxes/{sandbox}/processes", {"cmd": "echo hi"})
        told = self._until(b'"stdout"')
        taken = (time.perf_counter() - begun) * 1000
        while not told.endswith(_END):
            told += self._socket.recv(65536)
        return taken

    def answered(self, path: str, content: bytes) -> None:
        """Post JSON and read the answer, which has a length."""
        self._send("POST", path, content)
        self._body()

    def upload(self, path: str, content: bytes) -> float:
        """Megabytes a second of a file on its way there, until the answer."""
        begun = time.perf_counter()
        self._send("PUT", path, content, "application/octet-stream")
        self._body()
        return len(content) / (time.perf_counter() - begun) / 1e6

    def download(self, path: str, size: int) -> float:
        """Megabytes a second of a file of `size` bytes on its way here."""
        begun = time.perf_counter()
        self._send("GET", path, b"")
        if (got := self._body()) != size:
            raise RuntimeError(f"{got} bytes came, not {size}")
        return size / (time.perf_counter() - begun) / 1e6

    def stream(self, path: str, body: object, size: int) -> float:
        """Megabytes a second of a stream that ends, with `size` bytes of output in it."""
        begun = time.perf_counter()
        self._request("POST", path, body)
        got, tail = 0, b""
        while not tail.endswith(_END):
            count = self._socket.recv_into(self._buffer)
            if not count:
                raise RuntimeError("the stream broke off")
            got += count
            tail = (tail + self._buffer[max(0, count - len(_END)) : count])[-len(_END) :]
        taken = time.perf_counter() - begun
        if got < size * 4 // 3:
            raise RuntimeError(f"{got} bytes came; {size} bytes in base64 are more")
        return size / taken / 1e6

    def _request(self, method: str, path: str, body: object) -> None:
        self._send(method, path, json.dumps(body).encode(), accept="application/x-ndjson")

    def _send(
        self, method: str, path: str, content: bytes, kind: str = _JSON, *, accept: str = "*/*"
    ) -> None:
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n"
            f"authorization: Bearer {self._place.token}\r\naccept: {accept}\r\n"
        )
        if method != "GET":
            head += f"content-type: {kind}\r\ncontent-length: {len(content)}\r\n"
        self._socket.sendall(f"{head}\r\n".encode() + content)

    def _body(self) -> int:
        """Read an answer that has a length; how long it is."""
        told = self._until(b"\r\n\r\n")
        head, _, rest = told.partition(b"\r\n\r\n")
        length = int(_LENGTH.search(head)[1])  # type: ignore[index]
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"refused: {told[-300:].decode(errors='replace')}")
        missing = length - len(rest)
        while missing > 0:
            count = self._socket.recv_into(self._buffer)
            if not count:
                raise RuntimeError("the answer broke off")
            missing -= count
        return length

    def _until(self, wanted: bytes) -> bytes:
        told = b""
        while wanted not in told:
            piece = self._socket.recv(65536)
            if not piece or told.startswith(b"HTTP/1.1 4"):
                raise RuntimeError(f"refused: {(told + piece)[-300:].decode(errors='replace')}")
            told += piece
        return told


@contextmanager
def connected(place: Place) -> Iterator[Connection]:
    host, _, port = place.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), _TIMEOUT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield Connection(place, connection)
