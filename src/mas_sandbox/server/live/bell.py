"""Tells whoever waits that something has changed."""

from __future__ import annotations

import asyncio


class Bell:
    """Look, then wait: nothing is missed as long as no other task runs in between."""

    def __init__(self) -> None:
        self._rung: asyncio.Future[None] | None = None

    def next(self) -> asyncio.Future[None]:
        """Done at the next `ring`, counted from now and not from when it is awaited. It is
        shared: await it through `wait`, or `asyncio.wait`, which cancels nothing."""
        if self._rung is None:
            self._rung = asyncio.get_running_loop().create_future()
        return self._rung

    async def wait(self) -> None:
        """Until the next `ring`."""
        await asyncio.shield(self.next())

    def ring(self) -> None:
        if self._rung is not None:
            self._rung.set_result(None)
            self._rung = None
