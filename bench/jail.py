"""The jail, without a daemon around it."""

from __future__ import annotations

import time

from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.wire.messages import Call

from .places import runtime
from .rows import Benchmark, Row, Samples

_CALL = Call("calculator", {"expression": "6 * 7"}, timeout_ms=20_000)


async def _measure(runs: int) -> Samples:
    started, first, ended = [], [], []
    async with runtime("jail") as jail:
        for _ in range(runs):
            begun = time.perf_counter()
            sandbox = await jail.start(SandboxSpec())
            started.append((time.perf_counter() - begun) * 1000)
            await sandbox.run(_CALL)
            first.append((time.perf_counter() - begun) * 1000)
            begun = time.perf_counter()
            await sandbox.stop()
            ended.append((time.perf_counter() - begun) * 1000)
    return {"jail-start": started, "jail-first-result": first, "jail-stop": ended}


JAIL = Benchmark(
    (
        Row("jail-start", "ms", "from nothing to a jail whose toolrunner answers"),
        Row("jail-first-result", "ms", "from nothing to the result of `calculator`"),
        Row("jail-stop", "ms", "the end of a jail, with all its processes"),
    ),
    _measure,
)
