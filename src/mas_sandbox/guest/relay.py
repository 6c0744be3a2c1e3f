"""One connection of the workload's, relayed byte for byte over one stream of the channel.

Nothing is parsed here: what the bytes ask for, the host reads and decides.
"""

from __future__ import annotations

import _socket
import select
import struct

from mas_sandbox.wire.credit import ReceiveCredit, SendCredit
from mas_sandbox.wire.frames import CHUNK, Kind, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .connection import Connection

_NO_LINGER = struct.pack("ii", 1, 0)  # struct linger, socket(7): closing resets


class Relay:
    """A connected socket and a stream of ours (`runtimes.streams` is the host's end).

    The socket is read only while there is credit to send what is read. What the host
    sends waits in memory, a credit's worth at most, until the socket takes it.

    `finished`: nothing is left to do with the socket, which its owner is to `close`;
    `over`: nor with the stream, whose number no frame of the host's will name again.
    """

    __slots__ = (
        "_connection",
        "_delivered",
        "_ended",
        "_host_ended",
        "_incoming",
        "_outgoing",
        "_reset",
        "_socket",
        "_waiting",
        "descriptor",
        "finished",
        "over",
        "stream",
    )

    def __init__(self, connection: Connection, stream: int, accepted: int) -> None:
        """Takes the descriptor `accepted` over."""
        self._socket = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, accepted)
        self._socket.setblocking(False)
        # The bytes were gathered into segments once already, by whoever wrote them.
        self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        self._connection = connection
        self.stream = stream
        self.descriptor = accepted
        self._outgoing = SendCredit()
        self._incoming = ReceiveCredit()
        self._waiting = bytearray()
        self._ended = self._host_ended = self._delivered = self._reset = False
        self.finished = self.over = False

    def wanted(self, full: bool) -> int:
        """What to poll the socket for; nothing at all where it is 0. `full`: the channel is."""
        readable = not self._ended and not full and self._outgoing.available > 0
        return (select.POLLIN if readable else 0) | (select.POLLOUT if self._waiting else 0)

    def pump(self, full: bool) -> None:
        """Move one piece each way, as far as it goes without waiting."""
        if self._waiting:
            self._deliver()
        if not self.finished and self.wanted(full) & select.POLLIN:
            self._read()

    def take(self, data: bytes) -> None:
        """Bytes from the host; none are its end. Raises ProtocolError."""
        if self._host_ended:
            raise ProtocolError("data after the end of its stream")
        self._incoming.received(len(data))
        self._host_ended = not data
        if self._reset:
            # It ended its direction before it saw our reset, which it will not answer if
            # it had seen the end of ours.
            self.over = self._ended and self._host_ended
            return
        self._waiting += data
        self._deliver()

    def granted(self, payload: bytes) -> None:
        """Raises ProtocolError."""
        self._outgoing.granted(payload)

    def reset(self) -> None:
        """The host ended both directions, or answered that we did."""
        if not self._reset:
            self._connection.send(Kind.RESET, self.stream)
        self.over = True
        self._abandon()

    def close(self) -> None:
        """The workload sees its connection reset unless it ended as it should."""
        if not self._delivered:
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_LINGER, _NO_LINGER)
        self._socket.close()

    def _read(self) -> None:
        try:
            data = self._socket.recv(min(CHUNK, self._outgoing.available))
        except BlockingIOError:
            return
        except OSError:
            self._fail()
            return
        self._outgoing.spend(len(data))
        self._connection.send(Kind.DATA, self.stream, data)
        if not data:
            self._ended = True
            self._settle()

    def _deliver(self) -> None:
        try:
            count = self._socket.send(self._waiting) if self._waiting else 0
            del self._waiting[:count]
            if self._host_ended and not self._waiting:
                self._socket.shutdown(_socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self._fail()
            return
        grant = self._incoming.consumed(count)
        if grant is not None and not self._host_ended:
            self._connection.send(Kind.CREDIT, self.stream, grant)
        self._settle()

    def _settle(self) -> None:
        """Where both directions have ended and all that came was delivered."""
        if self._ended and self._host_ended and not self._waiting:
            self._delivered = self.finished = self.over = True

    def _fail(self) -> None:
        """The workload's end is gone."""
        if self._ended and self._host_ended:
            self.over = True  # the host has forgotten the stream, and would not answer
        else:
            self._reset = True
            self._connection.send(Kind.RESET, self.stream)
        self._abandon()

    def _abandon(self) -> None:
        self._waiting.clear()
        self.finished = True
