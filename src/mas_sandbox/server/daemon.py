"""Puts a daemon together from its settings, and takes it apart again."""

from __future__ import annotations

import asyncio
import gc
import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from mas_sandbox.runtimes.select import CONFIGURED, ISOLATIONS, NAMES, build_runtime, choose_runtime

from .extensions import read_sources
from .head_start import HeadStartPool
from .shipped import SHIPPED
from .walls import Wall, Walls

if TYPE_CHECKING:
    from .assembly import Daemon
    from .settings import Settings


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Daemon]:
    """A daemon, ready for its front door; on leaving, everything of it is gone.

    Raises SandboxError with the mend for whatever the settings ask and this host lacks.
    """
    sources = read_sources(settings.tools)
    if settings.listen is not None:  # one that answers a few calls has no time for it
        from .leftovers import reclaim

        await asyncio.to_thread(reclaim, settings.state_dir)
    async with AsyncExitStack() as undo:
        walls, pool = await _walls(settings, undo)
        first = SHIPPED.get(walls.default.name, SHIPPED[""]).sandbox(sources)
        if sources or (settings.pool == 0 and settings.policy is None):
            pool.begin(first)
        await _import_the_rest()
        from .assembly import assemble

        daemon = await assemble(settings, walls, pool, first)
        undo.pop_all()
        gc.enable()
        try:
            yield daemon
        finally:
            await daemon.broker.close()


async def _walls(settings: Settings, undo: AsyncExitStack) -> tuple[Walls, HeadStartPool]:
    """The runtimes that the settings name, and the pool of the one that calls go to first.

    `auto` is one that works here, and whatever is stronger for calls that ask for it:
    those are tried when one does. Runtimes that are named must all work.
    """
    config, state = settings.runtime_config, settings.state_dir
    walls: list[Wall] = []
    names = settings.runtime.split(",")
    for name in names:
        of_this = config if len(names) == 1 or name in CONFIGURED else None
        runtime, probe = await choose_runtime(name, of_this, state)
        size = settings.pool and (runtime.pool_size or settings.pool)  # none ahead of one call
        walls.append(Wall.standing(HeadStartPool(runtime, size), probe))
        undo.push_async_callback(walls[-1].close)
    if settings.runtime == "auto":
        for name in NAMES[NAMES.index(walls[0].name) + 1 :]:
            walls.append(Wall(name, ISOLATIONS[name], partial(build_runtime, name, None, state)))
            undo.push_async_callback(walls[-1].close)
    default = min(walls, key=lambda wall: wall.isolation.strength)
    assert isinstance(default.pool, HeadStartPool)
    return Walls(walls, default), default.pool


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
