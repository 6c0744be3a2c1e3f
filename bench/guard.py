"""Speed that must not be lost: ratios of what is measured side by side, never times.

The least of each series is taken, which other programs can lengthen but not shorten, and a
ratio that is too large is measured again before it is believed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial

from mas_sandbox.sdk import LocalExecutor

from .calls import ours
from .cases import ECHO
from .decisions import compiled, decision_us
from .doors import direct
from .oneshot import LAUNCHERS
from .places import pool, stdio_command
from .programs import bubblewrap, output
from .rows import Absent
from .startup import interpreter, one_call
from .turns import Take, blocking, in_turns

_TRIES = 3
_TURNS = 6


@dataclass(frozen=True, slots=True)
class Threshold:
    """`row` may take so many times what `beside` does."""

    row: str
    beside: str
    limit: float


THRESHOLDS = (
    Threshold("fresh jail by bubblewrap", "bare bubblewrap", 16),
    Threshold("fresh jail by zygote", "bare bubblewrap", 6),
    Threshold("refused call over HTTP", "bare route", 6),
    Threshold("live calculator over HTTP", "bare route", 10),
    Threshold("one-call daemon", "python", 8),
    Threshold("policy decision", "parsing it", 3),
)
"""About twice what is measured: noise stays below, a step that was not there before does not."""

Series = Callable[[], Awaitable[Mapping[str, "list[float] | Absent"]]]


async def guard() -> list[str]:
    """What is slower than it may be, or could not be measured."""
    failures = []
    # Jails are Linux's; the rest holds anywhere.
    of_jails = (_jails, _calls) if sys.platform == "linux" else ()
    for series in (*of_jails, _starts, _decisions):
        failures += await _judged(series)
    return failures


async def _judged(series: Series) -> list[str]:
    said: list[str] = []
    for _ in range(_TRIES):
        said = too_slow(await series())
        if not said:
            break
    return said


def too_slow(samples: Mapping[str, list[float] | Absent]) -> list[str]:
    """What exceeds its threshold, by the least samples, of the rows that are there."""
    said = [
        f"{name}: {taken.reason}" for name, taken in samples.items() if isinstance(taken, Absent)
    ]
    for threshold in THRESHOLDS:
        row, beside = samples.get(threshold.row), samples.get(threshold.beside)
        if not isinstance(row, list) or not isinstance(beside, list):
            continue
        ratio = min(row) / min(beside)
        if ratio > threshold.limit:
            said.append(
                f"{threshold.row}: {ratio:.1f} x {threshold.beside}, and {threshold.limit:g} x is "
                f"the most ({min(row):.3g} and {min(beside):.3g})"
            )
    return said


async def _jails() -> Mapping[str, list[float] | Absent]:
    takes: dict[str, Take | Absent] = {
        "bare bubblewrap": blocking(partial(output, bubblewrap(ECHO.argv)))
    }
    async with AsyncExitStack() as undo:
        for launcher in LAUNCHERS:
            warm = await undo.enter_async_context(pool("jail", 0, launcher))
            if not isinstance(warm, Absent):
                takes[f"fresh jail by {launcher}"] = direct(warm, 0)(ECHO)
            elif launcher == "bubblewrap":  # which stands in for the others
                takes[f"fresh jail by {launcher}"] = warm
        return await in_turns(takes, _TURNS)


async def _calls() -> Mapping[str, list[float] | Absent]:
    async with AsyncExitStack() as undo:
        takes = await ours(undo)
        chosen = {
            "bare route": takes["bare-route"],
            "refused call over HTTP": takes["refused"],
            "live calculator over HTTP": takes["live-calculator"],
        }
        return await in_turns(chosen, 5 * _TURNS, warm_up=5, pause_s=0.01)


async def _starts() -> Mapping[str, list[float] | Absent]:
    with ExitStack() as undo:
        executor = LocalExecutor(undo.enter_context(stdio_command(0)), runtime="local")
        takes = {
            "one-call daemon": blocking(partial(one_call, executor)),
            "python": blocking(interpreter),
        }
        return await in_turns(takes, _TURNS)


async def _decisions() -> Mapping[str, list[float] | Absent]:
    policy = compiled()
    text = json.dumps({"tool": "bash", "args": {"command": "cd project && make test"}})

    async def decided() -> float:
        await asyncio.sleep(0)
        return decision_us(policy, 500)

    parsed = blocking(lambda: [json.loads(text) for _ in range(500)])

    async def parsing() -> float:
        return await parsed() / 500 * 1000

    return await in_turns({"policy decision": decided, "parsing it": parsing}, 4 * _TURNS)
