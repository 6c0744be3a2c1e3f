"""Bandwidth and operations a second of a machine's shares together."""

from __future__ import annotations

import asyncio
import time

from .protocol import MAX_DATA, READ, WRITE, Op, Request

_BURST_S = 0.1
"""How much of a second's allowance may be used at once after a pause."""


class Throttle:
    """None is not limited. What is asked for is paid before it is done."""

    def __init__(self, io_mb_s: int | None = None, iops: int | None = None) -> None:
        self._byte_s = 0.0 if io_mb_s is None else 1 / (io_mb_s << 20)
        self._operation_s = 0.0 if iops is None else 1 / iops
        self._bytes_until = self._operations_until = 0.0

    async def pay(self, request: Request) -> None:
        """Wait until the request may be answered."""
        now = time.monotonic()
        moved = _bytes_of(request) * self._byte_s
        self._bytes_until = max(self._bytes_until, now - _BURST_S) + moved
        self._operations_until = max(self._operations_until, now - _BURST_S) + self._operation_s
        wait = max(self._bytes_until, self._operations_until) - now
        if wait > 0:
            await asyncio.sleep(wait)


def _bytes_of(request: Request) -> int:
    match request.op:
        case Op.READ:
            _, _, size, *_ = request.unpack(READ)
            return min(size, MAX_DATA)
        case Op.WRITE:
            return max(len(request.body) - WRITE.size, 0)
        case _:
            return 0
