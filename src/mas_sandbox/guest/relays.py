"""Every stream that this toolrunner has open to a service of the host's."""

from __future__ import annotations

import errno
import os
import select

from mas_sandbox.wire.frames import GUEST_STREAM, Kind, ProtocolError

from .relay import Relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from .connection import Connection
    from .poller import Poller

MAX_RELAYS = 200
"""Connections at once; more of them wait in the listening socket's queue."""
EGRESS = b"egress"
_LAST_STREAM = 0xFFFFFEFF
"""The streams after it are those of shares (`shares.FIRST_STREAM`)."""


class Relays:
    """The streams of one connection, among the rest that its loop polls.

    `listening`: what the workload connects to; it outlives this object.
    """

    def __init__(self, connection: Connection, poller: Poller, listening: _socket.socket) -> None:
        self._connection = connection
        self._poller = poller
        self._listening = listening
        self._spare = os.open(os.devnull, os.O_RDONLY)
        self._last = GUEST_STREAM
        self._by_stream: dict[int, Relay] = {}
        self._by_descriptor: dict[int, Relay] = {}
        self._changed: set[Relay] = set()
        self._full = False

    def choose(self) -> None:
        """Poll what there is room for, and nothing else."""
        full = self._connection.full
        if full != self._full:
            self._full = full
            self._changed.update(self._by_descriptor.values())
        for relay in self._changed:
            self._poller.watch(relay.descriptor, relay.wanted(full), self._pump)
        self._changed.clear()
        room = len(self._by_stream) < MAX_RELAYS and self._last < _LAST_STREAM
        wanted = select.POLLIN if room and not full else 0
        self._poller.watch(self._listening.fileno(), wanted, self.accept)

    def receive(self, kind: Kind, stream: int, payload: bytes) -> None:
        """A frame for one of these streams. Raises ProtocolError.

        For a stream that is over, all are ignored but a RESET: the host sent it before it
        knew, and waits for the answer.
        """
        if not GUEST_STREAM < stream <= self._last:
            raise ProtocolError(f"a {kind.name} frame on stream {stream}, which was never opened")
        relay = self._by_stream.get(stream)
        if relay is None:
            if kind is Kind.RESET:
                self._connection.send(Kind.RESET, stream)
            return
        match kind:
            case Kind.DATA:
                relay.take(payload)
            case Kind.CREDIT:
                relay.granted(payload)
            case Kind.RESET:
                relay.reset()
            case _:
                raise AssertionError(kind)
        self._follow(relay)

    def close(self) -> None:
        """The host is gone: so is every connection, and whoever still waits for one."""
        self._poller.forget(self._listening.fileno())
        for relay in list(self._by_descriptor.values()):
            self._drop(relay)
        self._by_stream.clear()
        os.close(self._spare)
        while (accepted := self._accepted()) is not None:
            os.close(accepted)

    def accept(self, _listening: int) -> None:
        """Open a stream for who has connected, if it is still there."""
        accepted = self._accepted()
        if accepted is None:
            return
        self._last += 1
        relay = Relay(self._connection, self._last, accepted)
        self._by_stream[relay.stream] = self._by_descriptor[accepted] = relay
        self._changed.add(relay)
        self._connection.send(Kind.OPEN, relay.stream, EGRESS)

    def _pump(self, descriptor: int) -> None:
        relay = self._by_descriptor[descriptor]
        relay.pump(self._connection.full)
        self._follow(relay)

    def _accepted(self) -> int | None:
        try:
            # What `socket.accept` calls; the stubs lack it.
            accepted: int = self._listening._accept()[0]  # type: ignore[attr-defined]
        except OSError as error:
            # The connection would be there again at the next poll, and the next.
            if error.errno == errno.EMFILE and self._spare >= 0:
                self._turn_away()
            return None
        return accepted

    def _turn_away(self) -> None:
        """Close a connection that there is no descriptor for."""
        spare, self._spare = self._spare, -1
        os.close(spare)
        accepted = self._accepted()
        if accepted is not None:
            os.close(accepted)
        self._spare = os.open(os.devnull, os.O_RDONLY)

    def _follow(self, relay: Relay) -> None:
        """Do what the relay's new state asks for."""
        if relay.over:
            del self._by_stream[relay.stream]
        if not relay.finished:
            self._changed.add(relay)
        elif self._by_descriptor.get(relay.descriptor) is relay:
            self._drop(relay)

    def _drop(self, relay: Relay) -> None:
        self._poller.forget(relay.descriptor)
        self._changed.discard(relay)
        del self._by_descriptor[relay.descriptor]
        relay.close()
