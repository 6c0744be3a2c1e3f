"""What the machine itself takes to start a process: nothing that starts one is quicker."""

from __future__ import annotations

import os
import time

from .rows import Benchmark, Row, Samples


def _taken() -> float:
    begun = time.perf_counter()
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
    return (time.perf_counter() - begun) * 1000


async def _measure(runs: int) -> Samples:
    return {"floor": [_taken() for _ in range(10 * runs)]}


FLOOR = Benchmark((Row("floor", "ms", "fork and exec of /bin/true, and its end"),), _measure)
