"""Bandwidth of a sandbox, shared in turn by its connections."""

from __future__ import annotations

import asyncio

from .client import PIECE

_SMALLEST = 1024
_TURNS_A_SECOND = 20
_BURST_S = 0.1


class Bucket:
    """A token bucket, kept as the time at which what was taken will be paid for.

    Whoever takes waits for its own turn, in the order of asking; with one piece at a time
    and each piece small, connections share evenly. (The generic cell rate algorithm,
    ITU-T I.371.)
    """

    def __init__(self) -> None:
        self.rate: int | None = None
        """Bytes a second, None without a limit. May change at any time."""
        self._paid_at = 0.0

    @property
    def piece(self) -> int:
        """How much to take at once, bytes."""
        if self.rate is None:
            return PIECE
        return min(PIECE, max(_SMALLEST, self.rate // _TURNS_A_SECOND))

    async def take(self, count: int) -> None:
        """Return once `count` bytes may pass."""
        if self.rate is None:
            return
        now = asyncio.get_running_loop().time()
        self._paid_at = max(self._paid_at, now - _BURST_S) + count / self.rate
        if self._paid_at > now:
            await asyncio.sleep(self._paid_at - now)
