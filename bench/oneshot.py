"""One small thing in a fresh sandbox, through every door, beside the floors and the peers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import get_args

from mas_sandbox.runtimes.jail.launch import LauncherName

from .cases import CALCULATOR, CASES, ECHO, Case
from .doors import POOL, Door, direct, http, stdio
from .peers.driven import driven
from .peers.install import PEERS
from .places import pool
from .programs import bubblewrap, output
from .rows import Absent, Benchmark, Row, Samples
from .turns import Take, blocking, in_turns

LAUNCHERS: tuple[LauncherName, ...] = get_args(LauncherName)
_SLOW_PEERS = ("swe-rex", "runsc")
"""They take a tenth of a second and more, so they are asked for `echo` alone."""


async def _measure(runs: int) -> Samples:
    async with AsyncExitStack() as undo:
        doors = await _doors(undo)
        takes: dict[str, Take | Absent] = {}
        for case in CASES:
            takes[f"floor-{case.name}"] = blocking(partial(output, case.argv))
            takes[f"bwrap-{case.name}"] = blocking(partial(output, bubblewrap(case.argv)))
            for name, door in doors.items():
                takes[f"{case.name}-{name}"] = door if isinstance(door, Absent) else door(case)
        takes[f"{ECHO.name}-gvisor"] = await _gvisor(undo)
        for peer in PEERS:
            found = await undo.enter_async_context(driven(peer))
            for case in _asked_of(peer.name):
                takes[f"{peer.name}-{case.name}"] = (
                    found if isinstance(found, Absent) else found.takes([*case.argv], case.said)
                )
        return await in_turns(takes, runs, warm_up=2)


async def _doors(undo: AsyncExitStack) -> dict[str, Door | Absent]:
    """By what a row's name ends with."""
    doors: dict[str, Door | Absent] = {}
    for launcher in LAUNCHERS:
        for how, size in (("cold", 0), ("pool", POOL)):
            name = _ending(how, launcher)
            warm = await undo.enter_async_context(pool("jail", size, launcher))
            if isinstance(warm, Absent):
                doors |= {f"{door}-{name}": warm for door in _DOORS}
                continue
            doors[f"direct-{name}"] = direct(warm, size)
            doors[f"stdio-{name}"] = await stdio(size, launcher, undo)
            doors[f"http-{name}"] = await http(size, launcher, undo)
    return doors


async def _gvisor(undo: AsyncExitStack) -> Take | Absent:
    warm = await undo.enter_async_context(pool("gvisor", 0))
    return warm if isinstance(warm, Absent) else direct(warm, 0)(ECHO)


def _asked_of(peer: str) -> list[Case]:
    if peer in _SLOW_PEERS:
        return [ECHO]
    return [case for case in CASES if case is not CALCULATOR]


def _ending(how: str, launcher: LauncherName) -> str:
    return how if launcher == LAUNCHERS[0] else f"{how}-{launcher}"


_DOORS = {"direct": "the runtime in this process", "stdio": "JSON lines", "http": "HTTP"}


def _rows() -> Iterator[Row]:
    for case in CASES:
        floor, bare = f"floor-{case.name}", f"bwrap-{case.name}"
        peers = [f"{peer.name}-{case.name}" for peer in PEERS if case in _asked_of(peer.name)]
        program = " ".join(case.argv)
        yield Row(floor, "ms", f"fork and exec of `{program}`, to its end")
        yield Row(bare, "ms", "the same in bare bubblewrap, namespaces and mounts a jail's")
        for how, where in (("cold", "started for it"), ("pool", "from the pool")):
            for door, what in _DOORS.items():
                for launcher in LAUNCHERS:
                    yield Row(
                        *(f"{case.name}-{door}-{_ending(how, launcher)}", "ms"),
                        f"`{case.tool}`: {what}, a jail {where} by {launcher}",
                        beside=(floor, bare, *peers[:1]),
                    )
        if case is ECHO:
            what = "`bash`: the runtime in this process, a gVisor started for it"
            yield Row(f"{case.name}-gvisor", "ms", what, beside=(f"runsc-{case.name}",))
        for peer in PEERS:
            if case in _asked_of(peer.name):
                yield Row(f"{peer.name}-{case.name}", "ms", f"`{program}`: {peer.what}")


ONE_SHOT = Benchmark(tuple(_rows()), _measure)
