"""How many fresh sandboxes a second the machine gives, and how long the last ones wait."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack

from .cases import CALCULATOR, ECHO
from .oneshot import LAUNCHERS
from .places import Place, daemon, pool
from .programs import bubblewrap
from .rows import Absent, Benchmark, Row, Samples

_AT_ONCE = (1, 8, 64)
_SERIES_S = 2.0
_SERIES = 2


async def _measure(runs: int) -> Samples:
    """A series of one launcher, then of the other, and so on. No pool: each call waits for
    its own sandbox, and is done when it has been answered."""
    samples: dict[str, list[float] | Absent] = {}
    async with AsyncExitStack() as undo:
        places: dict[str, Place] = {}
        for launcher in LAUNCHERS:
            async with pool("jail", 0, launcher) as found:
                if isinstance(found, Absent):
                    samples |= dict.fromkeys(_names(launcher), found)
                    continue
            places[launcher] = await undo.enter_async_context(daemon("jail", 0, launcher=launcher))
        for _ in range(min(runs, _SERIES)):
            taken = samples.setdefault("bwrap-per-second", [])
            assert isinstance(taken, list)
            taken.append(await _of_bubblewrap())
            for starter, place in places.items():
                for at_once in _AT_ONCE:
                    times, rate = await _rate(place, at_once)
                    _add(samples, _name("fresh-per-second", at_once, starter), [rate])
                    if at_once == _AT_ONCE[-1]:
                        _add(samples, _name("fresh-latency", at_once, starter), times)
    return samples


def _add(samples: dict[str, list[float] | Absent], name: str, more: list[float]) -> None:
    taken = samples.setdefault(name, [])
    assert isinstance(taken, list)
    taken += more


async def _rate(place: Place, at_once: int) -> tuple[list[float], float]:
    """Milliseconds of each call, and calls a second, of so many callers."""
    host, _, port = place.url.removeprefix("http://").partition(":")
    body = json.dumps({"tool": {"name": CALCULATOR.tool, "args": CALCULATOR.args}}).encode()
    request = (
        f"POST /v1/sandbox/execute HTTP/1.1\r\nhost: 127.0.0.1\r\n"
        f"authorization: Bearer {place.token}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body
    times: list[float] = []
    end = time.perf_counter() + _SERIES_S

    async def caller() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            while (begun := time.perf_counter()) < end:
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                answer = await reader.readexactly(length)
                if b'"result":42' not in answer.replace(b" ", b""):
                    raise RuntimeError(f"a call failed: {answer[:300].decode()}")
                times.append((time.perf_counter() - begun) * 1000)
        finally:
            writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return times, len(times) / (time.perf_counter() - begun)


async def _of_bubblewrap() -> float:
    """Bare bubblewraps a second, eight at once."""
    end, count = time.perf_counter() + _SERIES_S, 0

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < end:
            process = await asyncio.create_subprocess_exec(
                *bubblewrap(ECHO.argv), stdout=asyncio.subprocess.DEVNULL
            )
            await process.wait()
            count += 1

    begun = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(8)))
    return count / (time.perf_counter() - begun)


def _name(row: str, at_once: int, launcher: str) -> str:
    name = f"{row}-{at_once}"
    return name if launcher == LAUNCHERS[0] else f"{name}-{launcher}"


def _names(launcher: str) -> list[str]:
    rates = [_name("fresh-per-second", at_once, launcher) for at_once in _AT_ONCE]
    return [*rates, _name("fresh-latency", _AT_ONCE[-1], launcher)]


def _rows() -> tuple[Row, ...]:
    rows = [Row("bwrap-per-second", "1/s", "bare bubblewraps with `bash`, eight at once")]
    for launcher in LAUNCHERS:
        rows += [
            Row(
                *(_name("fresh-per-second", at_once, launcher), "1/s"),
                f"calls over HTTP, each in a fresh jail by {launcher}, {at_once} at once",
                beside=("bwrap-per-second",),
            )
            for at_once in _AT_ONCE
        ]
        rows.append(
            Row(
                *(_name("fresh-latency", _AT_ONCE[-1], launcher), "ms"),
                f"how long each of those waits, {_AT_ONCE[-1]} at once",
            )
        )
    return tuple(rows)


THROUGHPUT = Benchmark(_rows(), _measure)
