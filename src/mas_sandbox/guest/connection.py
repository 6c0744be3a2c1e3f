"""The toolrunner's end of the channel: bytes in, frames out, never waiting for either."""

from __future__ import annotations

import os

from mas_sandbox.wire.frames import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mas_sandbox.wire.frames import Kind

_READ_BYTES = 256 * 1024
_FULL_BYTES = 256 * 1024


class Connection:
    """A stream descriptor, made non-blocking. What could not be sent yet waits in a
    buffer; while that is `full`, its owner stops reading from everywhere."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        os.set_inheritable(descriptor, False)
        self.descriptor = descriptor
        self._waiting = bytearray()

    @property
    def full(self) -> bool:
        return len(self._waiting) >= _FULL_BYTES

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def read(self) -> bytes | None:
        """What has arrived; empty at the end of the channel, None when nothing has."""
        try:
            return os.read(self.descriptor, _READ_BYTES)
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
                del buffer[: os.write(self.descriptor, buffer)]
        except BlockingIOError:
            return
        except ConnectionError:
            buffer.clear()  # the end of the channel is seen by `read`
