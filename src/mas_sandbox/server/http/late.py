"""What is built while the daemon already answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send


class Late:
    """An application that takes a while to import and to build. Requests that come for it
    meanwhile wait; the event loop does not."""

    def __init__(self, build: Callable[[], ASGIApp]) -> None:
        self._build = build
        self._building: asyncio.Task[ASGIApp] | None = None
        self._app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self._app or await self.built())(scope, receive, send)

    async def built(self) -> ASGIApp:
        """Have it built, in a thread; once. Raises what the building raises."""
        if self._building is None:
            self._building = asyncio.create_task(asyncio.to_thread(self._build))
        self._app = await asyncio.shield(self._building)
        return self._app
