"""Streams that the guest opens to services of the host: the way out, shared directories.

Both ends count credit as for a call's output (`wire.credit`), in both directions. A
stream that one end resets is over for both once the other has answered, so that what was
on its way meanwhile is told from data for a stream that never was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from mas_sandbox.wire.credit import ReceiveCredit, SendCredit
from mas_sandbox.wire.errors import SandboxError
from mas_sandbox.wire.frames import (
    CHUNK,
    GUEST_STREAM,
    MAX_SERVICE_NAME,
    Kind,
    ProtocolError,
)

if TYPE_CHECKING:
    Send = Callable[[Kind, int, bytes], None]

log = logging.getLogger(__name__)

MAX_STREAMS = 256
"""How many a guest may have open at once; one more is reset."""
LINGER_S = 10.0
"""How long a guest may go on sending after the host's end; then the stream is reset."""


class GuestStream:
    """One stream, from the host's side. One task may read while another one writes."""

    def __init__(self, number: int, send: Send) -> None:
        self._number = number
        self._send = send
        self._received = bytearray()
        self._incoming = ReceiveCredit()
        self._outgoing = SendCredit()
        self._guest_ended = self._host_ended = self._over = False
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    async def read(self, limit: int = CHUNK) -> bytes:
        """The next bytes, at most `limit`; empty once the guest has ended its direction.

        Raises ConnectionResetError where the stream or the channel is gone.
        """
        while not self._received and not self._guest_ended:
            self._refuse_over()
            self._readable = asyncio.get_running_loop().create_future()
            await self._readable
        self._refuse_over()
        data = bytes(self._received[:limit])
        del self._received[:limit]
        grant = self._incoming.consumed(len(data))
        if grant is not None and not self._guest_ended:
            self._send(Kind.CREDIT, self._number, grant)
        return data

    async def write(self, data: bytes) -> None:
        """Send all of it, waiting for credit. Raises ConnectionResetError as `read` does."""
        view = memoryview(data)
        while view:
            self._refuse_over()
            if self._outgoing.available == 0:
                self._writable = asyncio.get_running_loop().create_future()
                await self._writable
                continue
            piece = view[: min(CHUNK, self._outgoing.available)]
            self._outgoing.spend(len(piece))
            self._send(Kind.DATA, self._number, bytes(piece))
            view = view[len(piece) :]

    def write_eof(self) -> None:
        """End our direction. Safe to call twice."""
        if not self._host_ended and not self._over:
            self._host_ended = True
            self._send(Kind.DATA, self._number, b"")

    def reset(self) -> None:
        """End both directions at once; what was not read is dropped."""
        if not self._over:
            self._send(Kind.RESET, self._number, b"")
            self.fail()

    async def linger(self) -> None:
        """End our direction, and drop what still comes until the guest ends its own.

        Raises TimeoutError after `LINGER_S`, ConnectionResetError as `read` does.
        """
        self.write_eof()
        async with asyncio.timeout(LINGER_S):
            while await self.read():
                continue

    @property
    def ended_by_both(self) -> bool:
        return self._guest_ended and self._host_ended and not self._over

    # What the channel calls.

    def take(self, payload: bytes) -> None:
        """Bytes of the guest's. Raises ProtocolError."""
        if self._guest_ended:
            raise ProtocolError("data after the end of its stream")
        self._incoming.received(len(payload))
        if not payload:
            self._guest_ended = True
        elif not self._over:
            self._received += payload
        _wake(self._readable)

    def granted(self, payload: bytes) -> None:
        """Raises ProtocolError."""
        self._outgoing.granted(payload)
        _wake(self._writable)

    def fail(self) -> None:
        """It is over: whoever waits for it learns so."""
        self._over = True
        _wake(self._readable)
        _wake(self._writable)

    def _refuse_over(self) -> None:
        if self._over:
            raise ConnectionResetError("the sandbox's end of the stream is gone")


class GuestStreams:
    """Every stream that one guest has open, and the services they reach.

    `serve`: handlers by name; each runs as a task for each stream. When it returns the
    stream is ended, when it raises the stream is reset; a ProtocolError ends the sandbox.
    """

    def __init__(self, send: Send, lose: Callable[[ProtocolError], None]) -> None:
        """`lose`: what ends the channel when a handler finds its rules broken."""
        self._send = send
        self._lose = lose
        self._services: dict[str, Callable[[GuestStream], Coroutine[Any, Any, None]]] = {}
        self._streams: dict[int, GuestStream] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(
        self, service: str, handler: Callable[[GuestStream], Coroutine[Any, Any, None]]
    ) -> None:
        """Offer a service from now on, in place of one of the same name."""
        self._services[service] = handler

    def receive(self, kind: Kind, number: int, payload: bytes) -> None:
        """A frame of one of these streams. Raises ProtocolError."""
        if number < GUEST_STREAM:
            raise ProtocolError(f"a {kind.name} frame on stream {number}, which is the host's")
        stream = self._streams.get(number)
        match kind:
            case Kind.OPEN:
                if stream is not None:
                    raise ProtocolError(f"stream {number} opened twice")
                self._open(number, _service_name(payload))
            case Kind.DATA if stream is None:
                raise ProtocolError(f"data for stream {number}, which is not open")
            case Kind.DATA if stream is not None:
                stream.take(payload)
            case Kind.CREDIT if stream is not None:
                stream.granted(payload)
            case Kind.RESET if stream is not None:
                stream.reset()
                del self._streams[number]
            case _:
                return  # credit or a reset that crossed the stream's end
        self._forget(number)

    def close(self) -> None:
        """Every stream is over, every handler is cancelled."""
        for stream in self._streams.values():
            stream.fail()
        self._streams.clear()
        for task in self._tasks:
            task.cancel()

    async def settled(self) -> None:
        """Return once no handler runs any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _open(self, number: int, service: str) -> None:
        handler = self._services.get(service)
        stream = self._streams[number] = GuestStream(number, self._send)
        if handler is None or len(self._streams) > MAX_STREAMS:
            stream.reset()
            return
        task = asyncio.get_running_loop().create_task(self._handle(number, stream, handler))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(
        self,
        number: int,
        stream: GuestStream,
        handler: Callable[[GuestStream], Coroutine[Any, Any, None]],
    ) -> None:
        try:
            await handler(stream)
            await stream.linger()
        except OSError:
            stream.reset()  # either end went away or was too slow: no fault of ours
        except SandboxError as error:
            log.debug("a stream of a sandbox's was refused: %s", error.message)
            stream.reset()
        except ProtocolError as error:
            self._lose(error)
        except asyncio.CancelledError:
            stream.reset()
            raise
        except Exception:
            log.exception("a fault in the daemon ended a stream of a sandbox's")
            stream.reset()
        finally:
            self._forget(number)

    def _forget(self, number: int) -> None:
        """Where both directions have ended. One that we reset waits for its answer."""
        stream = self._streams.get(number)
        if stream is not None and stream.ended_by_both:
            del self._streams[number]


def _service_name(payload: bytes) -> str:
    if len(payload) > MAX_SERVICE_NAME or not payload.isascii():
        raise ProtocolError("a service's name that is too long or not ASCII")
    return payload.decode("ascii")


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
