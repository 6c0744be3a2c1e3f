"""Ends what runs on a stream that nobody waits for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mas_sandbox.wire.errors import SandboxError

if TYPE_CHECKING:
    from mas_sandbox.runtimes.live import LiveStream

_swallowing: set[asyncio.Task[None]] = set()
"""The event loop itself holds tasks weakly."""


def abandon(stream: LiveStream) -> None:
    """Cancel it; its last output is swallowed. Safe for one that has ended."""
    if stream.result.done():
        return
    stream.cancel()
    task = asyncio.create_task(_swallow(stream))
    _swallowing.add(task)
    task.add_done_callback(_swallowing.discard)


async def _swallow(stream: LiveStream) -> None:
    try:
        while await stream.read() is not None:
            pass
    except SandboxError:
        pass  # the sandbox is gone, and the stream with it
