"""What the host writes to a process's standard input, on its way into a descriptor."""

from __future__ import annotations

import os
import select

from mas_sandbox.wire.credit import ReceiveCredit
from mas_sandbox.wire.frames import Kind, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Connection
    from .poller import Poller


class Input:
    """The writing end of a pipe, or a terminal, and what waits to go into it.

    What waits is a credit's worth at most: credit is given back for what was written, or
    for what nobody will read any more. `foreground`: what sends a signal to the foreground
    of a terminal, where the kernel does not: the characters that ask for one then never come
    there.
    """

    __slots__ = (
        "_connection",
        "_credit",
        "_dropped",
        "_ended",
        "_open",
        "_poller",
        "_stream",
        "_waiting",
        "descriptor",
        "foreground",
    )

    def __init__(
        self, descriptor: int, stream: int, connection: Connection, poller: Poller
    ) -> None:
        """Takes the descriptor over."""
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self._stream = stream
        self._connection = connection
        self._poller = poller
        self._credit = ReceiveCredit()
        self._waiting = bytearray()
        self.foreground: Callable[[int], object] | None = None
        self._dropped = 0
        self._ended = False
        self._open = True

    def take(self, data: bytes) -> None:
        """Bytes from the host; none are its end. Raises ProtocolError."""
        if self._ended:
            raise ProtocolError("input after its end")
        self._credit.received(len(data))
        self._ended = not data
        taken = self.interpret(data)
        self._dropped += len(data) - len(taken)
        polled = bool(self._waiting)
        self._waiting += taken
        if not polled:
            self.pump()

    def interpret(self, data: bytes) -> bytes:
        """What of it is to be written."""
        return data

    def pump(self, _descriptor: int = -1) -> None:
        """Write what the descriptor takes now."""
        count = len(self._waiting)
        if self._open and count:
            try:
                count = os.write(self.descriptor, self._waiting)
            except BlockingIOError:
                count = 0
            except OSError:
                self._close()  # who read it is gone: what comes is dropped
        del self._waiting[:count]
        grant = self._credit.consumed(count + self._dropped)
        self._dropped = 0
        if grant is not None and not self._ended:
            self._connection.send(Kind.CREDIT, self._stream, grant)
        if self._open and self._ended and not self._waiting:
            self.end()
        if self._open:
            wanted = select.POLLOUT if self._waiting else 0
            self._poller.watch(self.descriptor, wanted, self.pump)

    def end(self) -> None:
        """All was written, and there is no more."""
        self._close()

    def close(self) -> None:
        """Let go of the descriptor, whatever still waits."""
        self._waiting.clear()
        self._close()

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._poller.close(self.descriptor)
