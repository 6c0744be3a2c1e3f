"""Calls and processes whose output is taken as it comes, and that are written to.

What has arrived and was not taken is bounded by the stream's credit: a reader that is slow
holds up the process, never the daemon's memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from mas_sandbox.wire.credit import ReceiveCredit, SendCredit
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import CHUNK, Kind, ProtocolError
from mas_sandbox.wire.messages import Result
from mas_sandbox.wire.process import SIZE, STARTED

if TYPE_CHECKING:
    Send = Callable[[Kind, int, bytes], None]


class LiveStream:
    """One stream that the host opened with CALL or START.

    `started`: the process's id, of START only; `result`: how it ended. Both fail with a
    SandboxError when the sandbox does not live to say.
    """

    def __init__(self, number: int, send: Send) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[int] = loop.create_future()
        self.result: asyncio.Future[Result] = loop.create_future()
        self._number = number
        self._send = send
        self._received: deque[tuple[Kind, bytes]] = deque()
        self._incoming = ReceiveCredit()
        self._outgoing = SendCredit()
        self._input_ended = False
        self._changed: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    async def read(self) -> tuple[Kind, bytes] | None:
        """The next output, STDOUT, STDERR or VALUE; None when there will be no more.

        Raises SandboxError when the sandbox is gone.
        """
        while not self._received:
            if self.result.done():
                self.result.result()
                return None
            self._changed = asyncio.get_running_loop().create_future()
            await self._changed
        kind, data = self._received.popleft()
        grant = self._incoming.consumed(len(data))
        if grant is not None and not self.result.done():
            self._send(Kind.CREDIT, self._number, grant)
        return kind, data

    async def write(self, data: bytes) -> None:
        """Write all of it to standard input, as fast as the process reads.

        Raises SandboxError `tool_failed` where that has been closed, or the process ended;
        why the sandbox is gone, when it is.
        """
        view = memoryview(data)
        while view:
            if self._input_ended or self.result.done():
                if self.result.done():
                    self.result.result()
                raise SandboxError(ErrorCode.TOOL_FAILED, "its standard input is closed")
            if self._outgoing.available == 0:
                self._writable = asyncio.get_running_loop().create_future()
                await self._writable
                continue
            piece = view[: min(CHUNK, self._outgoing.available)]
            self._outgoing.spend(len(piece))
            self._send(Kind.STDIN, self._number, bytes(piece))
            view = view[len(piece) :]

    def write_eof(self) -> None:
        """Close its standard input. Safe to call twice."""
        if not self._input_ended and not self.result.done():
            self._input_ended = True
            self._send(Kind.STDIN, self._number, b"")
            _wake(self._writable)

    def signal(self, number: int) -> None:
        """Send a signal, 1 to 64, to its process group; nothing where it has ended."""
        if not self.result.done():
            self._send(Kind.SIGNAL, self._number, bytes([number]))

    def resize(self, rows: int, columns: int) -> None:
        """Tell its terminal its size."""
        if not self.result.done():
            self._send(Kind.RESIZE, self._number, SIZE.pack(rows, columns))

    def cancel(self) -> None:
        """End it and every process it started."""
        if not self.result.done():
            self._send(Kind.CANCEL, self._number, b"")

    # What the channel calls.

    def take(self, kind: Kind, payload: bytes) -> bytes | None:
        """Raises ProtocolError. Credit is given back when it is read, not now."""
        self._incoming.received(len(payload))
        self._received.append((kind, payload))
        _wake(self._changed)
        return None

    def note_started(self, payload: bytes) -> None:
        """Raises ProtocolError."""
        if len(payload) != STARTED.size or self.started.done():
            raise ProtocolError("a STARTED that makes no sense")
        self.started.set_result(STARTED.unpack(payload)[0])

    def granted(self, payload: bytes) -> None:
        """Raises ProtocolError."""
        self._outgoing.granted(payload)
        _wake(self._writable)

    def finish(self, result: Result) -> None:
        if not self.result.done():
            self.result.set_result(result)
        if not self.started.done():
            self.started.cancel()
        self._wake_all()

    def fail(self, error: SandboxError) -> None:
        for future in (self.started, self.result):
            if not future.done():
                future.set_exception(SandboxError(error.code, error.message))
                future.exception()  # marked as retrieved: nobody may be waiting
        self._wake_all()

    def _wake_all(self) -> None:
        _wake(self._changed)
        _wake(self._writable)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
