"""The toolrunner's end of the channel: bytes in, frames out, never waiting for either."""

from __future__ import annotations

import os
import select

from mas_sandbox.wire.frames import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mas_sandbox.wire.frames import Kind

    from .poller import Poller, Serve

_READ_BYTES = 64 * 1024
_FULL_BYTES = 256 * 1024
_PORT_BYTES = 4096
"""The most that one read of a virtio-serial port returns: a buffer of its driver's."""


class Connection:
    """A stream descriptor, made non-blocking. What could not be sent yet waits in a
    buffer; while that is `full`, its owner stops reading from everywhere."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        os.set_inheritable(descriptor, False)
        self._descriptor = descriptor
        self._waiting = bytearray()

    @property
    def full(self) -> bool:
        return len(self._waiting) >= _FULL_BYTES

    def watch(self, poller: Poller, serve: Serve) -> None:
        """Have `serve` called when there is something to `read`, or room to `flush`."""
        events = 0 if self.full else select.POLLIN
        events |= select.POLLOUT if self._waiting else 0
        poller.watch(self._descriptor, events, serve)

    def read(self) -> bytes | None:
        """What has arrived; empty at the end of the channel, None when nothing has."""
        try:
            return os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
            return None
        except ConnectionError:
            return b""

    def send(self, kind: Kind, stream: int, payload: bytes = b"") -> None:
        self._waiting += encode(kind, stream, payload)

    def flush(self) -> None:
        """Send what the channel takes now."""
        buffer = self._waiting
        try:
            while buffer:
                del buffer[: os.write(self._descriptor, buffer)]
        except BlockingIOError:
            return
        except ConnectionError:
            buffer.clear()  # the end of the channel is seen by `read`

    def close(self) -> None:
        os.close(self._descriptor)


class SerialConnection(Connection):
    """A virtio-serial port: one stream for ever, whoever is at its other end.

    While no host is attached, the driver answers reads with 0 bytes, writes with EAGAIN,
    and every poll at once with POLLHUP (`port_fops_*` in the kernel's
    drivers/char/virtio_console.c). So the stream never ends here, nothing that was
    written is lost, and what is polled meanwhile is an epoll that only a *change* of
    the port wakes: the driver wakes its waiters when a host comes.
    """

    def __init__(self, path: str) -> None:
        """Raises OSError: EBUSY where another process has the port."""
        super().__init__(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC))
        self._bell = select.epoll()
        edges = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET
        self._bell.register(self._descriptor, edges)
        self._away = False

    def watch(self, poller: Poller, serve: Serve) -> None:
        bell = self._bell.fileno()
        if self._away:
            poller.forget(self._descriptor)
            poller.watch(bell, select.POLLIN, serve)
        else:
            poller.forget(bell)
            super().watch(poller, serve)

    def read(self) -> bytes | None:
        data = super().read()
        if data is not None and len(data) == _PORT_BYTES:
            data = self._read_on(data)
        if data == b"":
            # Silence the bell first: a host that comes after the look rings it again.
            self._bell.poll(0)
            self._away = _hung_up(self._descriptor)
            return None
        self._away = False
        return data

    def _read_on(self, data: bytes) -> bytes:
        """What else has arrived, without a turn of the loop for each of the driver's buffers."""
        pieces, size = [data], len(data)
        while size < _READ_BYTES and (piece := super().read()):
            pieces.append(piece)
            size += len(piece)
            if len(piece) < _PORT_BYTES:
                break
        return b"".join(pieces)

    def close(self) -> None:
        self._bell.close()
        super().close()


def _hung_up(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
