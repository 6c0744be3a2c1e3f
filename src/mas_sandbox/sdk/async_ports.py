"""`sandbox.ports` for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .asked import ports as asked

if TYPE_CHECKING:
    from mas_sandbox.api.ports import ListeningPort, SharedPort

    from .async_connection import AsyncConnection
    from .async_tunnel import AsyncTunnel


class AsyncPorts:
    """What listens in one sandbox, and how to reach it."""

    def __init__(self, connection: AsyncConnection, sandbox_id: str) -> None:
        self._connection = connection
        self._sandbox_id = sandbox_id

    async def list(self) -> tuple[ListeningPort, ...]:
        """The ports that something listens on, by number."""
        return (await self._connection.ask(asked.listed(self._sandbox_id))).ports

    async def share(self, port: int, expires_s: int = 3600) -> SharedPort:
        """A token for one port and nothing else, good for so many seconds."""
        return await self._connection.ask(asked.shared(self._sandbox_id, port, expires_s))

    async def url(self, port: int, expires_s: int = 3600) -> str:
        """Where a browser finds the server of a port, with a token for it."""
        return asked.whole((await self.share(port, expires_s)).url, self._connection.url)

    async def connect(self, port: int) -> AsyncTunnel:
        """One connection to a port; raises NotFound where nothing listens."""
        from .async_tunnel import AsyncTunnel

        socket = await self._connection.socket(asked.tunnel_path(self._sandbox_id, port))
        return AsyncTunnel(socket, self._connection.url)
