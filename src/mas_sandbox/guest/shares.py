"""Host directories in a machine of its own: mounted here with FUSE, served by the host.

The kernel's requests are passed on unread, and so are the answers; both say how long they
are in their first four bytes (the kernel's include/uapi/linux/fuse.h).
"""

from __future__ import annotations

import _thread
import errno
import os
import select
import struct

from mas_sandbox.wire.credit import ReceiveCredit, SendCredit
from mas_sandbox.wire.frames import CHUNK, Kind, ProtocolError

from . import mounts
from .refusal import Unenforceable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .connection import Connection
    from .poller import Poller

_MAX_SHARES = 0xFF
_MAX_DATA = 1024 * 1024
_REQUEST_BYTES = _MAX_DATA + 4096
"""The kernel refuses to fill a buffer that the largest WRITE would not fit."""
_LENGTH = struct.Struct("=I")
_MIN_REPLY, _MAX_REPLY = 16, _MAX_DATA + 4096


class Share:
    """One mounted directory: /dev/fuse on this side, a stream on the other."""

    def __init__(self, connection: Connection, stream: int, device: int, buffer: bytearray) -> None:
        """Takes the descriptor `device` over: each read of it is one request, each write
        one answer. `buffer`: to read into, which others may use as well."""
        self.stream = stream
        self.descriptor = device
        self._connection = connection
        self._buffer = buffer
        self._outgoing = SendCredit()
        self._incoming = ReceiveCredit()
        self._request = b""
        self._reply = bytearray()

    @property
    def wanted(self) -> bool:
        """Whether there is room for what the kernel asks next."""
        return not self._connection.full and self._outgoing.available > 0

    def pump(self, _device: int = -1) -> None:
        """Pass one request on, as far as there is room for it."""
        if not self._request and self.wanted:
            self._read()
        self.send()

    def take(self, data: bytes) -> None:
        """Answers of the host's. Raises ProtocolError."""
        self._incoming.received(len(data))
        if not data:
            raise ProtocolError("the end of a share that is in use")
        reply = self._reply
        if reply or _LENGTH.unpack_from(data.ljust(_LENGTH.size, b"\0"))[0] != len(data):
            reply += data
            self._deliver()
        else:
            self._answer(data)  # almost every answer is one piece, and a piece one answer
        grant = self._incoming.consumed(len(data))
        if grant is not None:
            self._connection.send(Kind.CREDIT, self.stream, grant)

    def granted(self, payload: bytes) -> None:
        """Raises ProtocolError."""
        self._outgoing.granted(payload)

    def close(self) -> None:
        """Whoever uses the directory is told that it is gone (ENOTCONN)."""
        os.close(self.descriptor)

    def _read(self) -> None:
        try:
            count = os.readv(self.descriptor, [self._buffer])
        except OSError as error:
            # Whoever asked has taken it back, or it went to nobody.
            if error.errno not in (errno.EAGAIN, errno.ENOENT, errno.EINTR):
                raise
            return
        self._request = bytes(memoryview(self._buffer)[:count])

    def send(self) -> None:
        """What is left of a request, as far as there is room for it."""
        while self._request and self.wanted:
            piece = self._request[: min(CHUNK, self._outgoing.available)]
            self._outgoing.spend(len(piece))
            self._connection.send(Kind.DATA, self.stream, piece)
            self._request = self._request[len(piece) :]
            self._connection.flush()  # the host is at work while this turn goes on

    def _deliver(self) -> None:
        """Every whole answer."""
        reply = self._reply
        position = 0
        while len(reply) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(reply, position)
            if not _MIN_REPLY <= length <= _MAX_REPLY:
                raise ProtocolError(f"a FUSE reply of {length} bytes")
            if len(reply) - position < length:
                break
            with memoryview(reply)[position : position + length] as whole:
                self._answer(whole)
            position += length
        del reply[:position]

    def _answer(self, reply: bytes | memoryview) -> None:
        try:
            os.write(self.descriptor, reply)
        except OSError as error:
            if error.errno != errno.ENOENT:  # nobody waits for it any more
                raise ProtocolError(f"a FUSE reply that the kernel refuses: {error}") from error


class Shares:
    """Every share of this machine. Says READY when all are mounted.

    They are mounted by a thread of their own: to get to a directory inside another share
    is a request to that one, which this thread must pass on meanwhile.
    """

    FIRST_STREAM = 0xFFFFFF00
    """Their streams are numbered from here; the relays' are below."""

    def __init__(
        self, connection: Connection, poller: Poller, wanted: list[tuple[str, str]]
    ) -> None:
        """`wanted`: (path, "ro" or "rw"), outer directories before those inside them.

        Raises Unenforceable.
        """
        if len(wanted) > _MAX_SHARES:
            raise Unenforceable(f"{len(wanted)} host directories; {_MAX_SHARES} at most")
        self._connection = connection
        self._poller = poller
        self._by_stream: dict[int, Share] = {}
        self._waiting: list[Share] = []  # for their mount, without which poll(2) fails
        self._serving: list[Share] = []
        self._failure: OSError | None = None
        buffer = bytearray(_REQUEST_BYTES)
        for position in range(len(wanted)):
            try:
                device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                raise Unenforceable(f"host directories need FUSE: {error}") from error
            share = Share(connection, self.FIRST_STREAM + position, device, buffer)
            self._by_stream[share.stream] = share
            self._waiting.append(share)
            connection.send(Kind.OPEN, share.stream, f"share/{position}".encode())
        self._mounted, self._tell = os.pipe()
        poller.watch(self._mounted, select.POLLIN, self._notice_mounts)
        devices = [share.descriptor for share in self._waiting]
        _thread.start_new_thread(self._mount, (wanted, devices))

    def choose(self) -> None:
        """Poll what there is room for, and nothing else."""
        for share in self._serving:
            share.send()
            wanted = select.POLLIN if share.wanted else 0
            self._poller.watch(share.descriptor, wanted, share.pump)

    def receive(self, kind: Kind, stream: int, payload: bytes) -> None:
        """A frame of the host's for one of the shares. Raises ProtocolError."""
        share = self._by_stream.get(stream)
        if share is None:
            raise ProtocolError(f"a {kind.name} frame on stream {stream}, which was never opened")
        match kind:
            case Kind.DATA:
                share.take(payload)
            case Kind.CREDIT:
                share.granted(payload)
                share.pump()
            case _:
                raise ProtocolError("the end of a share that is in use")

    def close(self) -> None:
        for share in self._by_stream.values():
            share.close()

    def _mount(self, wanted: list[tuple[str, str]], descriptors: list[int]) -> None:
        try:
            for (path, mode), descriptor in zip(wanted, descriptors, strict=True):
                os.makedirs(path, exist_ok=True)
                mounts.mount_fuse(descriptor, path, writable=mode == "rw")
                os.write(self._tell, b"1")
        except OSError as error:
            self._failure = error
            os.close(self._tell)

    def _notice_mounts(self, _mounted: int) -> None:
        """Raises Unenforceable where a directory cannot be mounted."""
        for _ in os.read(self._mounted, _MAX_SHARES):
            self._serving.append(self._waiting.pop(0))
        if self._failure is not None:
            raise Unenforceable(f"a host directory cannot be mounted: {self._failure}")
        if not self._waiting:
            self._poller.close(self._mounted)
            os.close(self._tell)
            self._connection.send(Kind.READY, 0)
