"""How a stream of events is read: cut out of its bytes, and known to be whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from .errors import DaemonLost

Event = TypeVar("Event")
SILENCE_S = 35.0
"""After so long without a word a stream is given up: two signs of life, which come every
15 s, are missing."""


@dataclass(frozen=True, slots=True)
class Told(Generic[Event]):
    """How one kind of stream is read. `decode`: an event, None for what is nobody's business;
    raises what the event reports. `last`: with which a stream that is whole ends, None for one
    that ends by being left."""

    decode: Callable[[bytes | str], Event | None]
    last: type | None


class Lines:
    """Cuts pieces of bytes into lines."""

    def __init__(self) -> None:
        self._begun: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that are whole with it.

        >>> lines = Lines()
        >>> lines.feed(b"one" + chr(10).encode() + b"tw"), lines.feed(b"o" + chr(10).encode())
        ([b'one'], [b'two'])
        """
        first, *rest = piece.split(b"\n")
        self._begun.append(first)
        if not rest:
            return []
        whole = [b"".join(self._begun), *rest[:-1]]
        self._begun = [rest[-1]]
        return whole


class Reading(Generic[Event]):
    """One stream of events, as its pieces arrive."""

    def __init__(self, told: Told[Event]) -> None:
        self._told = told
        self._lines = Lines()
        self._ended = told.last is None

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that are whole with it."""
        for line in self._lines.feed(piece):
            event = self._told.decode(line)
            if event is not None:
                self._ended = self._ended or type(event) is self._told.last
                yield event

    def end(self) -> None:
        """Raises DaemonLost for a stream that ends before its last event."""
        if not self._ended:
            raise cut_off()


def cut_off() -> DaemonLost:
    return DaemonLost("the stream ended before its last event; the sandbox may have been ended")
