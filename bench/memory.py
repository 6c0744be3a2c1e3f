"""What the daemon itself takes, when it is idle and after many calls."""

from __future__ import annotations

import asyncio
import json
from functools import partial

from .cases import CALCULATOR
from .events import Connection, connected
from .places import daemon, pss_mib
from .rows import Benchmark, Row, Samples

DEFAULT_CALLS = 3_000
_FIRST = 1_000


async def _measure(runs: int, calls: int) -> Samples:
    """Calls in one live jail, one after the other. The first thousand are not counted: they
    bring what is imported and kept when it is first used."""
    async with daemon("jail", 2) as place:
        with connected(place) as connection:
            sandbox = await asyncio.to_thread(connection.create)
            await asyncio.sleep(1)
            idle = pss_mib(place.pid)
            body = json.dumps(
                {
                    "tool": {"name": CALCULATOR.tool, "args": CALCULATOR.args},
                    "sandbox_id": sandbox,
                }
            ).encode()
            await asyncio.to_thread(_call, connection, body, _FIRST)
            before = pss_mib(place.pid)
            await asyncio.to_thread(_call, connection, body, calls)
            after = pss_mib(place.pid)
    return {
        "daemon-idle": [idle],
        "daemon-after": [after],
        "daemon-growth": [(after - before) * 1000 / calls],
    }


def _call(connection: Connection, body: bytes, count: int) -> None:
    for _ in range(count):
        connection.answered("/v1/sandbox/execute", body)


def memory(calls: int) -> Benchmark:
    """`calls`: how many."""
    return Benchmark(
        (
            Row("daemon-idle", "MiB", "PSS of a daemon over HTTP, idle, a named jail", goal=80),
            Row("daemon-after", "MiB", f"the same after {_FIRST + calls:,} calls"),
            Row(
                "daemon-growth",
                "MiB",
                f"what each 1,000 calls add, of {calls:,} after those",
                goal=0.1,
            ),
        ),
        partial(_measure, calls=calls),
    )
