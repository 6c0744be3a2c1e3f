"""What a process has written lately, for readers that are at different places in it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from mas_sandbox.wire.frames import CHUNK

CAPACITY = 1024 * 1024
_MAX_PIECES = 4096
"""So that a process which writes byte by byte to two pipes costs no more than it wrote."""
_JOINED = CHUNK // 2
"""Output is joined up to this size where it comes in little bits."""


class _Piece:
    """Adjacent output of one pipe. `offset`: of its first byte, counted over all pipes."""

    __slots__ = ("data", "kind", "offset")

    def __init__(self, kind: str, offset: int, data: bytes | bytearray) -> None:
        self.kind = kind
        self.offset = offset
        self.data = data


class Ring:
    """The bytes from `start` to `end`, in the order in which they came."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._pieces: list[_Piece] = []

    def __len__(self) -> int:
        return self.end - self.start

    def append(self, kind: str, data: bytes) -> None:
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.kind == kind and len(last.data) + len(data) <= _JOINED:
            if isinstance(last.data, bytes):
                last.data = bytearray(last.data)
            last.data += data
        else:
            for begin in range(0, len(data), CHUNK):
                piece = data[begin : begin + CHUNK]
                self._pieces.append(_Piece(kind, self.end + begin, piece))
        self.end += len(data)

    def floor(self, capacity: int) -> int:
        """Where it would begin if it was trimmed to `capacity` bytes, in whole pieces."""
        index = self._first_kept(capacity)
        return self._pieces[index].offset if index < len(self._pieces) else self.end

    def trim(self, capacity: int) -> None:
        """Drop the oldest, down to `capacity` bytes."""
        index = self._first_kept(capacity)
        if index:
            del self._pieces[:index]
            self.start = self._pieces[0].offset if self._pieces else self.end

    def after(self, position: int) -> tuple[str, bytes]:
        """The next output at `position`, which is from `start` on and before `end`."""
        piece = self._pieces[bisect_right(self._pieces, position, key=_offset) - 1]
        if position == piece.offset and isinstance(piece.data, bytes):
            return piece.kind, piece.data
        return piece.kind, bytes(memoryview(piece.data)[position - piece.offset :])

    def _first_kept(self, capacity: int) -> int:
        if len(self) <= capacity and len(self._pieces) <= _MAX_PIECES:
            return 0
        index = bisect_left(self._pieces, self.end - capacity, key=_offset)
        return max(index, len(self._pieces) - _MAX_PIECES)


def _offset(piece: _Piece) -> int:
    return piece.offset
