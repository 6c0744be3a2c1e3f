"""Tells whoever waits that something has changed."""

from __future__ import annotations

import asyncio


class Bell:
    """Look, then wait: nothing is missed as long as no other task runs in between."""

    def __init__(self) -> None:
        self._rung: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Until the next `ring`."""
        if self._rung is None:
            self._rung = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._rung)

    def ring(self) -> None:
        if self._rung is not None:
            self._rung.set_result(None)
            self._rung = None
