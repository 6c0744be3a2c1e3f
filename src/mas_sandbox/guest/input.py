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


class Input:
    """The writing end of a pipe, or a terminal, and what waits to go into it.

    What waits is a credit's worth at most: credit is given back for what was written, or
    for what nobody will read any more. `watched`: where to note that `poll` has it;
    `foreground`: what sends a signal to the foreground of a terminal, where the kernel does
    not: the characters that ask for one then never come there.
    """

    __slots__ = (
        "_connection",
        "_credit",
        "_dropped",
        "_ended",
        "_open",
        "_poll",
        "_stream",
        "_waiting",
        "_watched",
        "descriptor",
        "foreground",
    )

    def __init__(
        self,
        descriptor: int,
        stream: int,
        connection: Connection,
        poll: select.poll,
        watched: dict[int, Input],
    ) -> None:
        """Takes the descriptor over."""
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self._stream = stream
        self._connection = connection
        self._poll = poll
        self._credit = ReceiveCredit()
        self._waiting = bytearray()
        self._watched = watched
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
        self._waiting += taken
        if self._watched.get(self.descriptor) is not self:
            self.pump()

    def interpret(self, data: bytes) -> bytes:
        """What of it is to be written."""
        return data

    def pump(self) -> None:
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
        self._watch()

    def end(self) -> None:
        """All was written, and there is no more."""
        self._close()

    def close(self) -> None:
        """Let go of the descriptor, whatever still waits."""
        self._waiting.clear()
        self._close()

    def _watch(self) -> None:
        wanted = self._open and bool(self._waiting)
        if wanted and self.descriptor not in self._watched:
            self._poll.register(self.descriptor, select.POLLOUT)
            self._watched[self.descriptor] = self
        elif not wanted and self._watched.get(self.descriptor) is self:
            self._poll.unregister(self.descriptor)
            del self._watched[self.descriptor]

    def _close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._watch()
        os.close(self.descriptor)
