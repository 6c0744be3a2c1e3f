"""`sandbox.ports`: servers inside a sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .asked import ports as asked

if TYPE_CHECKING:
    from mas_sandbox.api.ports import ListeningPort, SharedPort

    from .connection import Connection
    from .tunnel import Tunnel


class Ports:
    """What listens in one sandbox, and how to reach it."""

    def __init__(self, connection: Connection, sandbox_id: str) -> None:
        self._connection = connection
        self._sandbox_id = sandbox_id

    def list(self) -> tuple[ListeningPort, ...]:
        """The ports that something listens on, by number."""
        return self._connection.ask(asked.listed(self._sandbox_id)).ports

    def share(self, port: int, expires_s: int = 3600) -> SharedPort:
        """A token for one port and nothing else, good for so many seconds."""
        return self._connection.ask(asked.shared(self._sandbox_id, port, expires_s))

    def url(self, port: int, expires_s: int = 3600) -> str:
        """Where a browser finds the server of a port, with a token for it."""
        return asked.whole(self.share(port, expires_s).url, self._connection.url)

    def connect(self, port: int) -> Tunnel:
        """One connection to a port; raises NotFound where nothing listens."""
        from .tunnel import Tunnel

        socket = self._connection.socket(asked.tunnel_path(self._sandbox_id, port))
        return Tunnel(socket, self._connection.url)
