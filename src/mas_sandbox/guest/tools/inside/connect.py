"""sandbox.connect: standard input and output as one connection to a port in here."""

from __future__ import annotations

import _socket
import os
import select

from mas_sandbox.guest.changes import write_all
from mas_sandbox.guest.tools import ToolFailure
from mas_sandbox.guest.tools.arguments import integer, only

from . import PIECE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files

_LOOPBACK = ((_socket.AF_INET, "127.0.0.1"), (_socket.AF_INET6, "::1"))
_TIMEOUT_SECONDS = 10.0


def connect(args: dict[str, Any], files: Files) -> dict[str, Any]:
    """{port} -> {sent, received} in bytes, once the server has ended its direction.

    The end of the input ends the other one. Something is written to standard error once the
    server is there, which may be long before it says anything. Raises ToolFailure with the
    reason `not_found` where nothing listens.
    """
    only(args, "port")
    server = _connected(integer(args, "port", 0, 1, 65535))
    write_all(2, b"connected\n")
    return _relay(server)


def _connected(port: int) -> _socket.socket:
    """To the first of the two loopback addresses that answers."""
    for family, address in _LOOPBACK:
        try:
            server = _socket.socket(family, _socket.SOCK_STREAM)
        except OSError:
            continue  # no IPv6 here
        server.settimeout(_TIMEOUT_SECONDS)
        try:
            server.connect((address, port))
        except OSError:
            server.close()
            continue
        return server
    raise ToolFailure(
        f"nothing listens on port {port} of the sandbox's loopback; start the server first",
        reason="not_found",
    )


def _relay(server: _socket.socket) -> dict[str, Any]:
    server.settimeout(None)
    server.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    server.setblocking(False)
    poll = select.poll()
    outgoing = b""
    ended = False
    sent = received = 0
    while True:
        # Input waits for the server to have taken what came before; output waits here.
        poll.register(server.fileno(), select.POLLIN | (select.POLLOUT if outgoing else 0))
        if not outgoing and not ended:
            poll.register(0, select.POLLIN)
        ready = dict(poll.poll())
        if 0 in ready:
            poll.unregister(0)
            outgoing = os.read(0, PIECE)
            ended = not outgoing
            if ended:
                _end_direction(server)
        if outgoing and ready.get(server.fileno(), 0) & ~select.POLLIN:
            count = _send(server, outgoing)
            sent += count
            outgoing = outgoing[count:]
        if ready.get(server.fileno(), 0) & ~select.POLLOUT:
            piece = _receive(server)
            if piece == b"":
                return {"sent": sent, "received": received}
            if piece is not None:
                received += len(piece)
                write_all(1, piece)


def _send(server: _socket.socket, data: bytes) -> int:
    try:
        return server.send(data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)  # it does not read any more; what it still says is what counts


def _receive(server: _socket.socket) -> bytes | None:
    """Empty at the end; None where there is nothing after all."""
    try:
        return server.recv(PIECE)
    except BlockingIOError:
        return None
    except OSError as error:
        raise ToolFailure(
            f"the server broke the connection: {os.strerror(error.errno or 0)}"
        ) from (error)


def _end_direction(server: _socket.socket) -> None:
    # contextlib.suppress would be an import.
    try:  # noqa: SIM105
        server.shutdown(_socket.SHUT_WR)
    except OSError:
        pass  # it has hung up already: reading tells
