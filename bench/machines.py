"""The microVM, without a daemon around it."""

from __future__ import annotations

import json
import time
from contextlib import AsyncExitStack

from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.microvm.runtime import MicrovmSandbox
from mas_sandbox.wire.messages import Call

from .places import pss_mib, runtime
from .rows import Benchmark, Row, Samples

_CALL = Call("calculator", {"expression": "6 * 7"}, timeout_ms=20_000)
_ALIVE = 16
_SLOW = 3
"""Samples of what takes seconds."""


async def _timed_first(machines: Runtime) -> tuple[float, float]:
    """Milliseconds to READY and to the first result, of a machine nobody has prepared."""
    begun = time.perf_counter()
    async with await machines.start(SandboxSpec()) as sandbox:
        ready = time.perf_counter()
        await sandbox.run(_CALL)
        return (ready - begun) * 1000, (time.perf_counter() - begun) * 1000


async def _measure_clones(runs: int) -> Samples:
    ready, first = [], []
    async with runtime("microvm") as machines:
        begun = time.perf_counter()
        async with await machines.start(SandboxSpec()):
            built = time.perf_counter() - begun
        for _ in range(runs):
            one, other = await _timed_first(machines)
            ready.append(one)
            first.append(other)
    return {"template": [built], "clone-ready": ready, "clone-first-result": first}


async def _measure_boot(runs: int) -> Samples:
    """A machine with a disk of its own is never cloned."""
    disk = {"id": "scratch", "path": "{disk}", "read_only": False}
    async with runtime("microvm", json.dumps({"drives": [disk]})) as machines:
        timed = [await _timed_first(machines) for _ in range(min(runs, _SLOW))]
    return {"boot-first-result": [first / 1000 for _, first in timed]}


async def _measure_idle(runs: int) -> Samples:
    """As a pool holds them: each has been warmed up."""
    first = []
    async with AsyncExitStack() as undo:
        machines = await undo.enter_async_context(runtime("microvm"))
        sandboxes = []
        for _ in range(_ALIVE):
            sandbox = await undo.enter_async_context(await machines.start(SandboxSpec()))
            await sandbox.warm_up()
            sandboxes.append(sandbox)
        resident = [_resident_mib(sandbox) for sandbox in sandboxes]
        alive = 0
        for sandbox in sandboxes:
            begun = time.perf_counter()
            outcome = await sandbox.run(_CALL)
            first.append((time.perf_counter() - begun) * 1000)
            alive += outcome.value == 42
    return {"warm-first-result": first, "idle-memory": resident, "alive": [float(alive)]}


def _resident_mib(sandbox: Sandbox) -> float:
    assert isinstance(sandbox, MicrovmSandbox)
    return pss_mib(sandbox.vm.pid)


CLONES = Benchmark(
    (
        Row("template", "s", "boot, stop and seal a template, then clone it: once for an image"),
        Row("clone-ready", "ms", "from nothing to a clone that was welcomed"),
        Row("clone-first-result", "ms", "from nothing to the result of `calculator`", goal=100),
    ),
    _measure_clones,
)
BOOT = Benchmark(
    (Row("boot-first-result", "s", "power on, no template, to the result", goal=4),),
    _measure_boot,
)
IDLE = Benchmark(
    (
        Row("warm-first-result", "ms", "first `calculator` of a machine from a pool", goal=120),
        Row("idle-memory", "MiB", f"PSS of each of {_ALIVE} idle, warmed-up clones", goal=70),
        Row("alive", "", "of them, those that answer", goal=_ALIVE, at_least=True),
    ),
    _measure_idle,
)
