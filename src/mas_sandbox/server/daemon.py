"""Puts a daemon together from its settings, and takes it apart again."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from mas_sandbox.runtimes.select import choose_runtime

from .extensions import read_sources
from .head_start import HeadStartPool
from .shipped import SHIPPED

if TYPE_CHECKING:
    from .assembly import Daemon
    from .settings import Settings


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Daemon]:
    """A daemon, ready for its front door; on leaving, everything of it is gone.

    Raises SandboxError with the mend for whatever the settings ask and this host lacks.
    """
    sources = read_sources(settings.tools)
    runtime, probe = await choose_runtime(
        settings.runtime, settings.runtime_config, settings.state_dir
    )
    size = settings.pool and (runtime.pool_size or settings.pool)  # none ahead of one call
    pool = HeadStartPool(runtime, size)
    async with AsyncExitStack() as undo:
        undo.push_async_callback(pool.close)
        first = SHIPPED.get(runtime.name, SHIPPED[""]).sandbox(sources)
        if sources or (settings.pool == 0 and settings.policy is None):
            pool.begin(first)
        await _import_the_rest()
        from .assembly import assemble

        daemon = await assemble(settings, runtime, probe, pool, first)
        undo.pop_all()
        try:
            yield daemon
        finally:
            await daemon.broker.close()


_REST = (
    "jsonschema_rs",
    "mas_sandbox.tools.builtin",
    "mas_sandbox.audit.journal",
    "mas_sandbox.audit.log",
    "mas_sandbox.server.broker",
    "mas_sandbox.server.assembly",
    "mas_sandbox.server.stdio",
)
"""What stands between a started sandbox and the first answer, in slices of a few ms."""


async def _import_the_rest() -> None:
    """Import while the sandbox comes up, attending to it before each slice."""
    for name in _REST:
        for _ in range(4):  # an event may take some turns of the loop to reach its task
            await asyncio.sleep(0)
        importlib.import_module(name)
