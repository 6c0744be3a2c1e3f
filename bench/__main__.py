"""usage: scripts/bench [--json] [--runs N] [NAME ...]

Measures this machine and prints a table: median, 95th percentile, the goal and what the
figure is to be read beside. Rows that are compared are measured in turns, in one run.

  NAME      rows, or parts of their names; all by default
  --runs N  samples of each row, 10 by default; fewer of what takes seconds
  --json    for a program
  --list    what there is
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from .floor import FLOOR
from .http import HTTP
from .jail import JAIL
from .machines import BOOT, CLONES, IDLE
from .report import as_json, table
from .rows import Benchmark, Figure, figures

BENCHMARKS = (FLOOR, JAIL, CLONES, BOOT, IDLE, HTTP)


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0, 1 where something could not be measured, 64 for usage."""
    names, runs, flags = [], 10, set()
    pending = list(arguments)[::-1]
    while pending:
        argument = pending.pop()
        if argument == "--runs" and pending and pending[-1].isdecimal():
            runs = max(1, int(pending.pop()))
        elif argument in ("--json", "--list", "--help", "-h"):
            flags.add(argument)
        elif argument.startswith("-"):
            return _say(f"bench: {argument} is no flag, or lacks its number; see --help", 64)
        else:
            names.append(argument)
    if flags & {"--help", "-h"}:
        sys.stdout.write((__doc__ or "").strip() + "\n")
        return 0
    if "--list" in flags:
        rows = [row for benchmark in BENCHMARKS for row in benchmark.rows]
        sys.stdout.write("".join(f"{row.name:32} {row.what}\n" for row in rows))
        return 0
    chosen = [benchmark for benchmark in BENCHMARKS if _wanted(benchmark, names)]
    if not chosen:
        return _say("bench: no row has such a name; see --list", 64)
    found, failures = asyncio.run(_run(chosen, runs))
    shown = [figure for figure in found if not names or _named(figure.row.name, names)]
    if shown:
        sys.stdout.write((as_json(shown) if "--json" in flags else table(shown)) + "\n")
    return _say("\n".join(failures), 1) if failures else 0


async def _run(chosen: Sequence[Benchmark], runs: int) -> tuple[list[Figure], list[str]]:
    found: list[Figure] = []
    failures = []
    for benchmark in chosen:
        first = benchmark.rows[0].name
        _say(f"measuring {first} ...", 0)
        try:
            found += figures(benchmark, await benchmark.measure(runs))
        except Exception as error:  # noqa: BLE001  # told at the end; the other rows are of use
            failures.append(f"bench: {first} and what goes with it: {error}")
    return found, failures


def _wanted(benchmark: Benchmark, names: Sequence[str]) -> bool:
    return not names or any(_named(row.name, names) for row in benchmark.rows)


def _named(name: str, names: Sequence[str]) -> bool:
    return any(each in name for each in names)


def _say(text: str, status: int) -> int:
    sys.stderr.write(f"{text}\n")
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
