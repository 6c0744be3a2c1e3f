"""`Attachment`: a conversation with a process over a WebSocket."""

from __future__ import annotations

import json
from types import TracebackType
from typing import TYPE_CHECKING, Self

from websockets.exceptions import ConnectionClosed, ConnectionClosedOK

from . import sockets
from .errors import ToolFailed
from .events import Happened, Spoken
from .reading import cut_off

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from .calls import Body


class Attachment:
    """A process at the other end of a WebSocket: its events are iterated over, and it can be
    written to meanwhile, from another thread as well.

    Read it without long pauses: the connection of a client that takes nothing for 20 s may
    be closed, which raises DaemonLost; `Process.attach` goes on at an offset.
    """

    def __init__(self, socket: ClientConnection, url: str) -> None:
        self._socket = socket
        self._url = url
        self._spoken = Spoken()

    def begin(self, body: Body) -> Self:
        """Say what to start."""
        self._say(body)
        return self

    def write(self, data: bytes | str) -> None:
        """Write to its standard input, or its terminal; raises ToolFailed once it has ended."""
        for message in sockets.messages_of(data.encode() if isinstance(data, str) else data):
            self._send(message)

    def close_stdin(self) -> None:
        """Let it read the end of its standard input."""
        self._say({"type": "eof"})

    def signal(self, signal: str | int) -> None:
        """Send `SIGINT`, or another by name or number, to its process group."""
        self._say({"type": "signal", "signal": signal})

    def resize(self, rows: int, cols: int) -> None:
        """Tell its terminal its size."""
        self._say({"type": "resize", "rows": rows, "cols": cols})

    def kill(self) -> None:
        """End it and all that it started."""
        self._say({"type": "kill"})

    def close(self) -> None:
        """Detach. What becomes of the process was said when it was started."""
        sockets.hang_up(self._socket)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Happened:
        while not self._spoken.over:
            try:
                message = self._socket.recv()
            except ConnectionClosedOK:
                raise self._spoken.reason(cut_off()) from None
            except ConnectionClosed as exc:
                raise self._spoken.reason(sockets.lost(exc, self._url)) from exc
            event = self._spoken.hear(message)
            if event is not None:
                return event
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _say(self, message: Body) -> None:
        self._send(json.dumps(message))

    def _send(self, message: str | bytes) -> None:
        try:
            self._socket.send(message)
        except ConnectionClosedOK as exc:
            raise ToolFailed("the process has ended") from exc
        except ConnectionClosed as exc:
            raise sockets.lost(exc, self._url) from exc
