"""Bytes both ways, each direction ended by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .client import Client
from .upstream import Upstream


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group whose first failure is raised as what it is."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures


async def relay(client: Client, upstream: Upstream) -> None:
    """Return when both have ended. Raises OSError, Refused."""
    async with together() as group:
        group.create_task(down(upstream, client))
        await up(client, upstream)


async def up(client: Client, upstream: Upstream) -> None:
    while data := await client.take():
        await upstream.write(data)
    upstream.write_eof()


async def down(upstream: Upstream, client: Client) -> None:
    while data := await upstream.read():
        await client.stream.write(data)
    client.stream.write_eof()
