"""`Tunnel`: one connection to a server inside a sandbox."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self

from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from . import sockets

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection


class Tunnel:
    """One TCP connection to a port inside a sandbox. Read in one thread and write in another,
    if need be. Read without long pauses: the daemon may close the connection of a client that
    takes nothing for 20 s."""

    def __init__(self, socket: ClientConnection, url: str) -> None:
        self._socket = socket
        self._url = url
        self._ended = False

    def read(self) -> bytes:
        """What arrives next; `b""` when there will be no more. Raises DaemonLost."""
        if self._ended:
            return b""
        try:
            data = self._socket.recv(decode=False)
        except ConnectionClosedOK:
            data = b""
        except ConnectionClosed as exc:
            raise sockets.lost(exc, self._url) from exc
        self._ended = not data
        return data

    def write(self, data: bytes) -> None:
        """Send all of it, as fast as it is taken; raises DaemonLost."""
        for message in sockets.messages_of(data):
            self._send(message)

    def write_eof(self) -> None:
        """Let the server read the end. What it answers can still be read."""
        self._send(b"")

    def close(self) -> None:
        """Close the connection in both directions."""
        sockets.hang_up(self._socket)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, message: bytes) -> None:
        try:
            self._socket.send(message)
        except ConnectionClosed as exc:
            raise sockets.lost(exc, self._url) from exc
