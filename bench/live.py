"""Processes of a named sandbox, over HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from .events import Connection, connected
from .places import Place, bare, daemon, pss_mib
from .rows import Benchmark, Row, Samples

_THINKING_S = 0.03
"""Between two processes: the toolrunner prepares the next one when it is idle."""
_JAIL_BYTES, _MACHINE_BYTES, _SERIES = 200_000_000, 40_000_000, 5
_JAILS = 100
_PATIENCE_S = 30
"""For what is written and not read to come as far as it can."""


def _floor() -> float:
    begun = time.perf_counter()
    with subprocess.Popen(["/bin/bash", "-c", "echo hi"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        return (time.perf_counter() - begun) * 1000


def _first_bytes(connection: Connection, runs: int) -> Samples:
    sandbox = connection.create()
    samples: dict[str, list[float]] = {"run-alone": [], "run-first-byte": []}
    for count in range(runs + 3):
        floor = _floor()
        time.sleep(_THINKING_S)
        taken = connection.first_byte(sandbox)
        if count >= 3:  # the first ones meet what has never run
            samples["run-alone"].append(floor)
            samples["run-first-byte"].append(taken)
    return samples


async def _measure_first_byte(runs: int) -> Samples:
    async with daemon("jail", 0) as place:
        return await _with(place, partial(_first_bytes, runs=5 * runs))


def _pipe() -> float:
    begun = time.perf_counter()
    argv = ["head", "-c", str(_JAIL_BYTES), "/dev/zero"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while process.stdout.read(1 << 16):
            continue
    return _JAIL_BYTES / (time.perf_counter() - begun) / 1e6


async def _measure_stream_of_jail(runs: int) -> Samples:
    samples: dict[str, list[float]] = {"stream-pipe": [], "stream-bare": [], "stream-jail": []}
    async with daemon("jail", 0) as place, bare() as beside:
        with connected(place) as jail, connected(beside) as floor:
            sandbox = await asyncio.to_thread(jail.create)
            for _ in range(min(runs, _SERIES)):
                samples["stream-pipe"].append(await asyncio.to_thread(_pipe))
                body = {"size": _JAIL_BYTES}
                samples["stream-bare"].append(
                    await asyncio.to_thread(floor.stream, "/", body, _JAIL_BYTES)
                )
                samples["stream-jail"].append(await _streamed(jail, sandbox, _JAIL_BYTES))
    return samples


async def _measure_stream_of_machine(runs: int) -> Samples:
    async with daemon("microvm", 0) as place:
        with connected(place) as machine:
            sandbox = await asyncio.to_thread(machine.create)
            streams = [
                await _streamed(machine, sandbox, _MACHINE_BYTES) for _ in range(min(runs, _SERIES))
            ]
    return {"stream-microvm": streams}


async def _streamed(connection: Connection, sandbox: str, size: int) -> float:
    body = {"cmd": f"head -c {size} /dev/zero"}
    path = f"/v1/sandboxes/{sandbox}/processes"
    return await asyncio.to_thread(connection.stream, path, body, size)


async def _measure_live_jails(runs: int) -> Samples:
    return {
        "live-jails": [await _memory_of_each("echo hi; exec sleep 600")],
        "live-jails-behind": [await _memory_of_each("head -c 8000000 /dev/zero; exec sleep 600")],
    }


async def _memory_of_each(command: str) -> float:
    """MiB that each jail costs the daemon in which this runs, attached to and not read from;
    what it takes with one jail is not counted."""
    async with daemon("jail", 0, "-max-sandboxes", str(_JAILS + 1)) as place:
        with ExitStack() as connections:
            await asyncio.to_thread(_attached, place, connections, "echo hi; exec sleep 600")
            before = pss_mib(place.pid)
            for _ in range(_JAILS):
                await asyncio.to_thread(_attached, place, connections, command)
            after = pss_mib(place.pid)
            for _ in range(_PATIENCE_S):
                await asyncio.sleep(1)
                last, after = after, pss_mib(place.pid)
                if after - last < 1:
                    break
            return (after - before) / _JAILS


def _attached(place: Place, connections: ExitStack, command: str) -> None:
    connection = connections.enter_context(connected(place))
    connection.start(connection.create(), command)


async def _with(place: Place, work: Callable[[Connection], Samples]) -> Samples:
    with connected(place) as connection:
        return await asyncio.to_thread(work, connection)


RUN = Benchmark(
    (
        Row("run-alone", "ms", "fork and exec of bash, to the first byte of `echo hi`"),
        Row(
            "run-first-byte",
            "ms",
            "`echo hi` in a named jail over HTTP, to the first byte of its output",
            goal=4,
            beside=("run-alone",),
        ),
    ),
    _measure_first_byte,
)
STREAM_JAIL = Benchmark(
    (
        Row("stream-pipe", "MB/s", "the output of `head -c 200000000 /dev/zero`, through a pipe"),
        Row("stream-bare", "MB/s", "as much in such events, of a server that does nothing else"),
        Row(
            "stream-jail",
            "MB/s",
            "the same from a jail, as NDJSON over HTTP",
            goal=200,
            at_least=True,
            beside=("stream-bare",),
        ),
    ),
    _measure_stream_of_jail,
)
STREAM_MACHINE = Benchmark(
    (Row("stream-microvm", "MB/s", "40 MB from a machine", goal=30, at_least=True),),
    _measure_stream_of_machine,
)
LIVE_JAILS = Benchmark(
    (
        Row(
            "live-jails", "MiB", f"PSS of the daemon for each of {_JAILS} jails attached to", goal=3
        ),
        Row("live-jails-behind", "MiB", "the same, with 8 MB written that nobody reads", goal=3),
    ),
    _measure_live_jails,
)
