"""usage: scripts/bench [--peers] [--json] [--runs N] [--calls N] [NAME ...]
       scripts/bench --guard

Measures this machine and prints a table: median, 95th percentile, the goal, and how many
times the rows beside it. Rows that are compared are measured in turns, in one run. Without
a NAME everything is measured (a quarter of an hour at most), and bench/RESULTS.md,
results.json and results.svg are written.

  NAME       rows, or parts of their names; all by default
  --peers    install the peers first, each in an environment of its own under the cache
             directory; what is not installed is reported as missing
  --runs N   samples of each row, 10 by default; fewer of what takes seconds
  --calls N  calls after which the daemon's memory is looked at, 3000 by default
  --json     for a program
  --list     what there is
  --guard    fail where something has become slower than a ratio allows (20 seconds)
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence

from .calls import CALLS
from .decisions import DECISIONS
from .density import DENSITY
from .floor import FLOOR
from .guard import guard
from .http import HTTP
from .jail import JAIL
from .live import LIVE_JAILS, RUN, STREAM_JAIL, STREAM_MACHINE
from .machines import BOOT, CLONES, IDLE
from .memory import DEFAULT_CALLS, memory
from .oneshot import ONE_SHOT
from .peers.install import PEERS
from .report import as_json, table
from .results import write
from .rows import Benchmark, Figure, figures
from .startup import STARTUP
from .throughput import THROUGHPUT
from .transfer import TRANSFER


def benchmarks(calls: int) -> tuple[Benchmark, ...]:
    """All of them. `calls`: as the flag."""
    return (
        *(FLOOR, ONE_SHOT, CALLS, THROUGHPUT, DECISIONS, STARTUP, memory(calls)),
        *(DENSITY, JAIL, CLONES, BOOT, IDLE, HTTP),
        *(RUN, STREAM_JAIL, STREAM_MACHINE, TRANSFER, LIVE_JAILS),
    )


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0, 1 where something could not be measured or is too slow for the
    guard, 64 for usage."""
    names: list[str] = []
    numbers = {"--runs": 10, "--calls": DEFAULT_CALLS}
    flags = set()
    pending = list(arguments)[::-1]
    while pending:
        argument = pending.pop()
        if argument in numbers and pending and pending[-1].isdecimal():
            numbers[argument] = max(1, int(pending.pop()))
        elif argument in ("--json", "--list", "--peers", "--guard", "--help", "-h"):
            flags.add(argument)
        elif argument.startswith("-"):
            return _say(f"bench: {argument} is no flag, or lacks its number; see --help", 64)
        else:
            names.append(argument)
    if flags & {"--help", "-h"}:
        sys.stdout.write((__doc__ or "").strip() + "\n")
        return 0
    if "--guard" in flags:
        slower = asyncio.run(guard())
        return _say("\n".join(f"bench: {each}" for each in slower), 1) if slower else 0
    all_of_them = benchmarks(numbers["--calls"])
    if "--list" in flags:
        rows = [row for benchmark in all_of_them for row in benchmark.rows]
        sys.stdout.write("".join(f"{row.name:36} {row.what}\n" for row in rows))
        return 0
    chosen = [benchmark for benchmark in all_of_them if _wanted(benchmark, names)]
    if not chosen:
        return _say("bench: no row has such a name; see --list", 64)
    if "--peers" in flags:
        _install()
    return _measured(chosen, names, numbers["--runs"], "--json" in flags)


def _measured(chosen: Sequence[Benchmark], names: Sequence[str], runs: int, json: bool) -> int:
    begun = time.monotonic()
    sections, failures = asyncio.run(_run(chosen, runs))
    found = [figure for section in sections for figure in section]
    shown = [figure for figure in found if not names or _named(figure.row.name, names)]
    if shown:
        sys.stdout.write((as_json(shown) if json else table(shown)) + "\n")
    if not names:
        _say(f"written: {write(sections, failures, time.monotonic() - begun)}", 0)
    return _say("\n".join(failures), 1) if failures else 0


async def _run(chosen: Sequence[Benchmark], runs: int) -> tuple[list[list[Figure]], list[str]]:
    """The figures of each benchmark that could be measured, and why the others could not."""
    sections, failures = [], []
    for benchmark in chosen:
        first = benchmark.rows[0].name
        _say(f"measuring {first} ...", 0)
        try:
            sections.append(figures(benchmark, await benchmark.measure(runs)))
        except Exception as error:  # noqa: BLE001  # told at the end; the other rows are of use
            failures.append(f"bench: {first} and what goes with it: {error}")
    return sections, failures


def _install() -> None:
    for peer in PEERS:
        if peer.requirement:
            _say(f"installing {peer.requirement} ...", 0)
        if why := peer.install():
            _say(f"{peer.name} {why}", 0)


def _wanted(benchmark: Benchmark, names: Sequence[str]) -> bool:
    return not names or any(_named(row.name, names) for row in benchmark.rows)


def _named(name: str, names: Sequence[str]) -> bool:
    return any(each in name for each in names)


def _say(text: str, status: int) -> int:
    sys.stderr.write(f"{text}\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
