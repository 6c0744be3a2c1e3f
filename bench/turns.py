"""Samples taken in turns: one of each subject, then again one of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from .rows import Absent

Take = Callable[[], Awaitable[float]]
"""Takes one sample: milliseconds, unless its row says otherwise."""


async def in_turns(
    subjects: Mapping[str, Take | Absent], runs: int, *, warm_up: int = 1, pause_s: float = 0
) -> dict[str, list[float] | Absent]:
    """`runs` samples of each by name, after `warm_up` turns that do not count. `pause_s`
    passes before each sample. One that fails is absent from then on, and says why."""
    samples: dict[str, list[float] | Absent] = {
        name: take if isinstance(take, Absent) else [] for name, take in subjects.items()
    }
    for turn in range(warm_up + runs):
        for name, take in subjects.items():
            taken = samples[name]
            if isinstance(taken, Absent) or isinstance(take, Absent):
                continue
            await asyncio.sleep(pause_s)
            try:
                sample = await take()
            except Exception as error:  # noqa: BLE001  # told in the table; the rest is of use
                samples[name] = Absent(f"{type(error).__name__}: {error}"[:300])
                continue
            if turn >= warm_up:
                taken.append(sample)
    return samples


def timed(work: Callable[[], Awaitable[object]]) -> Take:
    """How long `work` takes."""

    async def take() -> float:
        begun = time.perf_counter()
        await work()
        return (time.perf_counter() - begun) * 1000

    return take


def blocking(work: Callable[[], object]) -> Take:
    """How long `work`, which blocks, takes in this thread: nothing else runs meanwhile."""

    async def take() -> float:
        begun = time.perf_counter()
        work()
        return (time.perf_counter() - begun) * 1000

    return take
