"""Per-stream credit, so that a flood on one stream never stalls another.

Each direction of a stream starts with `INITIAL` bytes. A sender spends what it
sends; the receiver gives back, in CREDIT frames, what it has consumed. (The
scheme is that of HTTP/2 flow control, RFC 9113 section 5.2.)
"""

from __future__ import annotations

import struct

from .frames import ProtocolError

INITIAL = 256 * 1024
_GRANT = struct.Struct("!I")


class SendCredit:
    """How much may still be sent on one stream."""

    __slots__ = ("available",)

    def __init__(self) -> None:
        self.available = INITIAL

    def spend(self, count: int) -> None:
        self.available -= count

    def granted(self, payload: bytes) -> None:
        """Take a CREDIT payload in. Raises ProtocolError where it makes no sense."""
        if len(payload) != _GRANT.size:
            raise ProtocolError(f"a CREDIT payload of {len(payload)} bytes; it is 4")
        self.available += _GRANT.unpack(payload)[0]
        if self.available > INITIAL:
            raise ProtocolError("credit granted for bytes that were never sent")


class ReceiveCredit:
    """How much the peer may still send on one stream, and what to give back."""

    __slots__ = ("_consumed", "_remaining")

    def __init__(self) -> None:
        self._remaining = INITIAL
        self._consumed = 0

    def received(self, count: int) -> None:
        """Raises ProtocolError when the peer sent more than it was given."""
        self._remaining -= count
        if self._remaining < 0:
            raise ProtocolError("data beyond the stream's credit")

    def consumed(self, count: int) -> bytes | None:
        """Note consumed bytes; a CREDIT payload once a quarter of the window is due."""
        self._consumed += count
        if self._consumed < INITIAL // 4:
            return None
        grant, self._consumed = self._consumed, 0
        self._remaining += grant
        return _GRANT.pack(grant)
