"""Tells what a kernel says from what the code in it writes: `kernel.line`'s other end.

Whoever has the kernel's memory has its mark as well, so that code can say what it likes in the
kernel's place. That is believed of its own context, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MAX_MESSAGE = 8 * 1024 * 1024
MAX_HELD = 32 * 1024 * 1024
_MAX_PIECE = 4096
_DIGITS = frozenset(b"0123456789abcdef")
_SIZE, _HEADER = 4, 5


class Budget:
    """How many bytes of messages, half said or not yet taken, the contexts of one sandbox have
    the daemon hold."""

    def __init__(self, limit: int = MAX_HELD) -> None:
        self._limit = limit
        self.held = 0

    @property
    def spent(self) -> bool:
        return self.held >= self._limit


@dataclass(frozen=True, slots=True)
class Said:
    """A message. `payload`: None for one that was too long to be held."""

    payload: bytes | None


class Marks:
    """One pipe of one kernel. `mark`: what each piece of a message begins with."""

    def __init__(self, mark: bytes, budget: Budget) -> None:
        self._mark = mark
        self._budget = budget
        self._rest = b""
        self._message = bytearray()
        self._dropping = False

    def feed(self, data: bytes) -> Iterator[bytes | Said]:
        """Output and messages, in the order in which they were written. Take all of them before
        the next call."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        position = 0
        while (found := data.find(self._mark, position)) >= 0:
            if found > position:
                yield data[position:found]
            begin = found + len(self._mark) + _HEADER
            header = data[found + len(self._mark) : begin]
            if len(header) < _HEADER:
                self._rest = data[found:]
                return
            end = begin + _size(header)
            if end < begin:  # of no kernel's making
                yield self._mark
                position = found + len(self._mark)
                continue
            if len(data) < end:
                self._rest = data[found:]
                return
            position = end
            self._join(data[begin:end])
            if header[_SIZE:] == b".":
                yield self._whole()
        held_back = self._begun(data, position)
        if position < held_back:
            yield data[position:held_back]
        self._rest = data[held_back:]

    def close(self) -> bytes:
        """What was held back as the beginning of a mark that will not come. Let go of it all."""
        self._forget()
        rest, self._rest = self._rest, b""
        return rest

    def _begun(self, data: bytes, position: int) -> int:
        """Where a mark may have begun whose end is still to come, else the end of `data`."""
        start = data.find(self._mark[:1], max(position, len(data) - len(self._mark) + 1))
        while start >= 0 and not self._mark.startswith(data[start:]):
            start = data.find(self._mark[:1], start + 1)
        return len(data) if start < 0 else start

    def _join(self, piece: bytes) -> None:
        if self._dropping:
            return
        if len(self._message) + len(piece) > MAX_MESSAGE or self._budget.spent:
            self._forget()
            self._dropping = True
            return
        self._message += piece
        self._budget.held += len(piece)

    def _whole(self) -> Said:
        said = Said(None if self._dropping else bytes(self._message))
        self._forget()
        self._dropping = False
        return said

    def _forget(self) -> None:
        self._budget.held -= len(self._message)
        self._message = bytearray()


def _size(header: bytes) -> int:
    """How much follows; -1 for what makes no sense."""
    digits, flag = header[:_SIZE], header[_SIZE:]
    if flag not in (b"+", b".") or not _DIGITS.issuperset(digits):
        return -1
    size = int(digits, 16)
    return size if size <= _MAX_PIECE else -1
