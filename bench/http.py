"""Calls over HTTP, to daemons side by side: a machine's beside a jail's, in turns."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

from mas_sandbox.sdk import AsyncClient, AsyncSandbox

from .places import daemon
from .rows import Benchmark, Row, Samples

_CALLS: dict[str, dict[str, Any]] = {
    "calculator": {"expression": "6 * 7"},
    "bash": {"command": "echo hello"},
}
_THINKING_S = 1.2
"""Between two calls: an agent asks its model what to do next, and a pool fills up again."""
_POOL = 2


async def _timed(client: AsyncClient, tool: str, sandbox: str | None) -> float:
    begun = time.perf_counter()
    await client.execute(tool, _CALLS[tool], sandbox_id=sandbox)
    return (time.perf_counter() - begun) * 1000


async def _measure(runs: int, names: tuple[str, ...] = ("jail", "microvm")) -> Samples:
    samples: dict[str, list[float]] = {}
    async with AsyncExitStack() as undo:
        places = [await undo.enter_async_context(daemon(name, _POOL)) for name in names]
        clients = [
            await undo.enter_async_context(AsyncClient(each.url, each.token)) for each in places
        ]
        rooms = [
            (await undo.enter_async_context(await AsyncSandbox.create(each.url, each.token))).id
            for each in places
        ]
        for count in range(runs + 1):
            for tool in _CALLS:
                for name, client, room in zip(names, clients, rooms, strict=True):
                    for kind, sandbox in (("pooled", None), ("warm", room)):
                        await asyncio.sleep(_THINKING_S)
                        taken = await _timed(client, tool, sandbox)
                        if count:  # the first of each starts what the rest find started
                            samples.setdefault(f"{name}-{tool}-{kind}", []).append(taken)
    for kind in ("pooled", "warm"):
        pairs = zip(
            *(samples[f"{name}-calculator-{kind}"] for name in reversed(names)), strict=True
        )
        samples[f"calculator-{kind}-above-jail"] = [one - other for one, other in pairs]
    return samples


def _rows() -> tuple[Row, ...]:
    rows = []
    for tool in _CALLS:
        for kind, where in (("pooled", "one from the pool"), ("warm", "a named one")):
            what = f"`{tool}` over HTTP, in {where}"
            jail = f"jail-{tool}-{kind}"
            rows += [
                Row(jail, "ms", f"{what}, of jails"),
                Row(f"microvm-{tool}-{kind}", "ms", f"{what}, of machines", beside=(jail,)),
            ]
    rows += [
        Row(f"calculator-{kind}-above-jail", "ms", "the two calls before, in pairs", goal=5)
        for kind in ("pooled", "warm")
    ]
    return tuple(rows)


HTTP = Benchmark(_rows(), _measure)
