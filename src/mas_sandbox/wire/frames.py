"""Length-prefixed frames: `(length u32, kind u8, stream u32)`, big-endian.

`length` counts the payload alone. Both ends treat the other as hostile: length,
kind and stream are checked before the payload is waited for, so that a header
claiming 4 GiB costs nine bytes and ends the connection.
"""

from __future__ import annotations

import struct
from enum import IntEnum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("!IBI")
MAX_PAYLOAD = 1024 * 1024
CHUNK = 64 * 1024
"""Data is sent in frames of at most this many bytes, so that streams take turns."""


class Kind(IntEnum):
    """What a frame is. `>` host to guest, `<` guest to host."""

    HELLO = 0x01  # < JSON Hello; the toolrunner is up
    WELCOME = 0x02  # > JSON Welcome; entropy, time, extensions. May be repeated
    READY = 0x03  # < empty; the last Welcome is in force
    PING = 0x04  # > up to 64 opaque bytes
    PONG = 0x05  # < the same bytes
    GOODBYE = 0x06  # > empty; end every call and exit

    CALL = 0x10  # > JSON Call; opens a stream
    CANCEL = 0x11  # > empty; kill the call's process tree
    RESULT = 0x12  # < JSON Result; closes the stream
    CREDIT = 0x13  # <> u32; the receiver has consumed that many bytes
    START = 0x14  # > JSON Process; opens a stream, which RESULT closes as it does a call's
    STARTED = 0x15  # < u32; the process's id inside the sandbox, before any of its output
    SIGNAL = 0x16  # > u8; a signal for the process's group
    RESIZE = 0x17  # > u16 rows, u16 columns of its terminal

    STDIN = 0x20  # > bytes; an empty payload is end of file
    STDOUT = 0x21  # < bytes
    STDERR = 0x22  # < bytes
    VALUE = 0x23  # < bytes of the JSON value that the tool returned

    OPEN = 0x30  # < ASCII name of a service of the host's; opens a stream of the guest's
    DATA = 0x31  # <> bytes of such a stream; an empty payload ends that direction
    RESET = 0x32  # <> empty; both directions are over. It is answered with RESET


DATA_KINDS = frozenset({Kind.STDIN, Kind.STDOUT, Kind.STDERR, Kind.VALUE, Kind.DATA})
"""Kinds that use up the stream's credit (see `credit`)."""

CONNECTION_KINDS = frozenset(
    {Kind.HELLO, Kind.WELCOME, Kind.READY, Kind.PING, Kind.PONG, Kind.GOODBYE}
)
"""Kinds that concern the whole connection and carry stream 0."""

GUEST_STREAM = 0x80000000
"""Set in the number of every stream that the guest opens, and of no other."""
MAX_SERVICE_NAME = 64

_KINDS = {int(kind): kind for kind in Kind}


class ProtocolError(Exception):
    """The peer broke a rule of the channel. The connection is to be dropped."""


def encode(kind: Kind, stream: int, payload: bytes | bytearray | memoryview = b"") -> bytes:
    """One frame as bytes. Raises ValueError for a payload over `MAX_PAYLOAD`."""
    if len(payload) > MAX_PAYLOAD:
        raise ValueError(f"a frame holds {MAX_PAYLOAD} bytes, not {len(payload)}")
    return HEADER.pack(len(payload), kind, stream) + payload


class FrameParser:
    """Cuts a byte stream into frames; holds at most one incomplete frame."""

    def __init__(self, accepted: frozenset[Kind]) -> None:
        self._accepted = accepted
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[Kind, int, bytes]]:
        """Yield every complete `(kind, stream, payload)`.

        Raises ProtocolError at the first header that breaks a rule; nothing
        after it is read.
        """
        buffer = self._buffer
        buffer += data
        position = 0
        try:
            while len(buffer) - position >= HEADER.size:
                length, number, stream = HEADER.unpack_from(buffer, position)
                kind = self._checked(length, number, stream)
                end = position + HEADER.size + length
                if len(buffer) < end:
                    break
                payload = bytes(memoryview(buffer)[position + HEADER.size : end])
                position = end
                yield kind, stream, payload
        finally:
            del buffer[:position]

    def _checked(self, length: int, number: int, stream: int) -> Kind:
        kind = _KINDS.get(number)
        if kind is None or kind not in self._accepted:
            raise ProtocolError(f"unexpected frame kind 0x{number:02x}")
        if length > MAX_PAYLOAD:
            raise ProtocolError(f"a {kind.name} frame of {length} bytes; {MAX_PAYLOAD} at most")
        if (stream == 0) != (kind in CONNECTION_KINDS):
            raise ProtocolError(f"a {kind.name} frame on stream {stream}")
        return kind


FROM_GUEST = frozenset(
    {
        Kind.HELLO,
        Kind.READY,
        Kind.PONG,
        Kind.RESULT,
        Kind.STARTED,
        Kind.CREDIT,
        Kind.STDOUT,
        Kind.STDERR,
        Kind.VALUE,
        Kind.OPEN,
        Kind.DATA,
        Kind.RESET,
    }
)
FROM_HOST = frozenset(
    {
        Kind.WELCOME,
        Kind.PING,
        Kind.GOODBYE,
        Kind.CALL,
        Kind.CANCEL,
        Kind.START,
        Kind.SIGNAL,
        Kind.RESIZE,
        Kind.CREDIT,
        Kind.STDIN,
        Kind.DATA,
        Kind.RESET,
    }
)
