"""The ways to a fresh sandbox of ours: a runtime in this process, JSON lines, HTTP; each
without a pool and with one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.jail.launch import LauncherName
from mas_sandbox.runtimes.pool import Pool
from mas_sandbox.sdk import AsyncClient, LocalExecutor

from .cases import Case
from .places import daemon, stdio_command
from .turns import Take

Door = Callable[[Case], Take]

POOL = 2
_AFTER_S = {0: 0.05, POOL: 0.4}
"""What follows a sample, outside it: the end of its sandbox, and the pool's next one."""


def _check(case: Case, said: object) -> None:
    if str(said).strip() != case.said:
        raise RuntimeError(f"it answered {said!r}, not {case.said!r}")


async def _settled(begun: float, pool: int) -> float:
    taken = (time.perf_counter() - begun) * 1000
    await asyncio.sleep(_AFTER_S[pool])
    return taken


def direct(warm: Pool, size: int) -> Door:
    """The runtime itself, in this process."""
    warm.warm(SandboxSpec())

    def door(case: Case) -> Take:
        async def take() -> float:
            begun = time.perf_counter()
            sandbox = await warm.acquire(SandboxSpec())
            outcome = await sandbox.run(case.call())
            warm.release(sandbox)
            taken = await _settled(begun, size)
            _check(case, outcome.value if outcome.has_value else outcome.stdout.decode())
            return taken

        return take

    return door


async def stdio(pool: int, launcher: LauncherName | None, undo: AsyncExitStack) -> Door:
    """One daemon that speaks JSON lines, for all calls."""
    command = undo.enter_context(stdio_command(pool, launcher))
    executor = LocalExecutor(command, keep_alive=True, runtime="jail")
    undo.callback(executor.close)

    def door(case: Case) -> Take:
        async def take() -> float:
            begun = time.perf_counter()
            reply = executor.execute(case.tool, case.args)
            taken = await _settled(begun, pool)
            _check(case, reply.result)
            return taken

        return take

    return door


async def http(pool: int, launcher: LauncherName | None, undo: AsyncExitStack) -> Door:
    place = await undo.enter_async_context(daemon("jail", pool, launcher=launcher))
    client = await undo.enter_async_context(AsyncClient(place.url, place.token))

    def door(case: Case) -> Take:
        async def take() -> float:
            begun = time.perf_counter()
            reply = await client.execute(case.tool, case.args)
            taken = await _settled(begun, pool)
            _check(case, reply.result)
            return taken

        return take

    return door
