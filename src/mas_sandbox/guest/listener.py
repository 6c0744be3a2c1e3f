"""Where a toolrunner in a virtual machine is called: one host at a time."""

from __future__ import annotations

# `socket` itself, with the `selectors` and `enum`s it imports, is slow to import.
import _socket
import os
import select

from .connection import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .signals import Signals

_ANY = 0xFFFFFFFF  # VMADDR_CID_ANY, vsock(7)
_HOST = 2  # VMADDR_CID_HOST
_BACKLOG = 8


class Listener:
    """A listening stream socket. `descriptor` turns readable when someone calls.

    Over vsock only the host is served: a call's own process can dial the port too, and
    the kernel says from which machine a connection comes.
    """

    def __init__(self, listening: _socket.socket) -> None:
        listening.setblocking(False)
        self.descriptor = listening.fileno()
        self._socket = listening

    @classmethod
    def on_port(cls, port: int) -> Listener:
        """Listen on a vsock port. Raises OSError, also where there is no vsock."""
        listening = _socket.socket(_socket.AF_VSOCK, _socket.SOCK_STREAM)
        listening.bind((_ANY, port))
        listening.listen(_BACKLOG)
        return cls(listening)

    @classmethod
    def inherited(cls, descriptor: int) -> Listener:
        """Raises OSError for what is no listening stream socket."""
        listening = _socket.socket(fileno=descriptor)
        if not listening.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN):
            raise OSError("the socket does not listen")
        os.set_inheritable(descriptor, False)
        return cls(listening)

    def wait(self, signals: Signals) -> Connection | None:
        """The next host's connection; None where a signal asks for the end."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        poll.register(signals.descriptor, select.POLLIN)
        while True:
            ready = [number for number, _ in poll.poll()]
            if signals.descriptor in ready and signals.take():
                return None
            if self.descriptor in ready and (accepted := self._accept()) is not None:
                return Connection(accepted)

    def turn_away(self) -> None:
        """Close the connection of whoever calls while another is served."""
        accepted = self._accept()
        if accepted is not None:
            os.close(accepted)

    def _accept(self) -> int | None:
        accepted: int
        try:
            # What `socket.accept` calls; the stubs lack it.
            accepted, address = self._socket._accept()  # type: ignore[attr-defined]
        except OSError:
            return None  # it hung up before it was answered
        if self._socket.family == getattr(_socket, "AF_VSOCK", None) and address[0] != _HOST:
            os.close(accepted)
            return None
        return accepted
