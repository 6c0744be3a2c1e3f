"""What an idle sandbox costs in memory: all its processes, each page shared by their number
(PSS). What the kernel keeps for namespaces and page tables is in no process, and not here."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.jail.launch import LauncherName
from mas_sandbox.runtimes.pool import Pool

from .cases import CALCULATOR
from .oneshot import LAUNCHERS
from .places import family_pss_mib, pool
from .rows import Absent, Benchmark, Row, Samples

_EACH = {"jail": 16, "gvisor": 4, "microvm": 4}


async def _measure(runs: int) -> Samples:
    samples: dict[str, list[float] | Absent] = {
        _jail(launcher): await _of("jail", launcher) for launcher in LAUNCHERS
    }
    return samples | {f"idle-{name}": await _of(name) for name in ("gvisor", "microvm")}


async def _of(name: str, launcher: LauncherName | None = None) -> list[float] | Absent:
    """MiB of each: the growth of all descendants of this process, after the first sandbox,
    which brings what all of them share. Each has served a call."""
    count = _EACH[name]
    async with AsyncExitStack() as undo:
        made = await undo.enter_async_context(pool(name, 0, launcher))
        if isinstance(made, Absent):
            return made
        await _add(made, 1, undo)
        before = family_pss_mib(os.getpid())
        await _add(made, count, undo)
        return [(family_pss_mib(os.getpid()) - before) / count]


async def _add(made: Pool, count: int, undo: AsyncExitStack) -> None:
    for _ in range(count):
        sandbox = await undo.enter_async_context(await made.acquire(SandboxSpec()))
        await sandbox.run(CALCULATOR.call())
    await asyncio.sleep(0.5)  # the process of the next call is made ready


def _jail(launcher: LauncherName) -> str:
    return "idle-jail" if launcher == LAUNCHERS[0] else f"idle-jail-{launcher}"


DENSITY = Benchmark(
    (
        *(
            Row(_jail(launcher), "MiB", f"PSS of each of 16 idle jails by {launcher}")
            for launcher in LAUNCHERS
        ),
        Row("idle-gvisor", "MiB", "PSS of each of 4 idle gVisor sandboxes"),
        Row("idle-microvm", "MiB", "PSS of each of 4 idle machines, monitor and memory"),
    ),
    _measure,
)
