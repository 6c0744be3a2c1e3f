"""A long mixed load with faults, judged: `scripts/soak --help`."""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

from faults.remains import Remains
from mas_sandbox.audit.verify import verify
from mas_sandbox.sdk import AsyncClient
from running_daemon import TOKEN, RunningDaemon, daemon

from .gauge import Gauge
from .killer import Killer
from .ledger import Ledger
from .lines import Lines
from .load import Load
from .report import Report

CONCURRENT, QUEUE, CALLERS, LIVES = 4, 12, 22, 4
"""More callers than run and wait, so that the queue is at its bound all the time."""


async def soak(
    state: Path, seconds: float, seed: int, *, runtime: str = "jail", kill_every_s: float = 0.4
) -> Report:
    """Load a daemon on HTTP and one on standard input for so long, end them, and judge."""
    chance, ledger = Random(seed), Ledger()
    flags = ["-max-concurrent", CONCURRENT, "-max-queue", QUEUE, "-pool", 2, "-audit-max-mb", 1]
    left: list[str] = []
    with Remains(state / "http") as remains:
        with daemon(state / "http", *map(str, flags), runtime=runtime) as running:
            remains.watch(running.process.pid)
            lines = await Lines.start(state / "stdio", runtime, ledger, Random(seed + 1))
            until = asyncio.get_running_loop().time() + seconds
            every_s = min(5.0, seconds / 100)
            gauges = {
                name: Gauge(process, every_s)
                for name, process in (("http", running.process.pid), ("stdio", lines.process.pid))
            }
            killer = Killer((running.process.pid, lines.process.pid), chance, kill_every_s)
            async with asyncio.TaskGroup() as group:
                stdio = group.create_task(lines.run(until))
                group.create_task(_over_http(running, ledger, seed, until))
                group.create_task(killer.run(until))
                for gauge in gauges.values():
                    group.create_task(gauge.run(until - 1))
            ledger.finish()
            running.process.terminate()
            status = await asyncio.to_thread(running.process.wait, 60)
        for name, code in (("http", status), ("stdio", stdio.result())):
            if code:
                left.append(f"the daemon on {name} ended with status {code}")
        try:
            await asyncio.to_thread(remains.settled, 10, killed=False)
        except AssertionError as error:
            left.append(f"left behind: {error}")
    logs = {name: state / name / "audit.jsonl" for name in gauges}
    return Report(
        seed=seed,
        seconds=seconds,
        ledger=ledger,
        killed=killer.killed,
        changes={name: gauge.changes() for name, gauge in gauges.items()},
        audits={name: verify(path) for name, path in logs.items()},
        wrong=left + [each for path in logs.values() for each in recorded_twice(path)],
    )


async def _over_http(running: RunningDaemon, ledger: Ledger, seed: int, until: float) -> None:
    async with AsyncExitStack() as stack:
        # Each life has a client of its own, as each of many agents would.
        clients = [
            await stack.enter_async_context(AsyncClient(running.url, TOKEN, timeout=120))
            for _ in range(LIVES + 1)
        ]
        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                load = Load(clients[0], ledger, Random(f"{seed} {number}"), until)
                group.create_task(load.one_shots())
            for number in range(LIVES):
                load = Load(clients[number + 1], ledger, Random(f"{seed} life {number}"), until)
                group.create_task(load.lives())


def recorded_twice(log: Path) -> list[str]:
    """Calls that the audit log has more than one intent of: run twice for one request."""
    from mas_sandbox.audit.files import put_away

    intents: Counter[str] = Counter()
    for path in [*put_away(log), log]:
        with path.open("rb") as file:
            for line in file:
                record: dict[str, Any] = json.loads(line)
                step = (record.get("trace") or {}).get("step_id")
                if record["kind"] == "intent" and step:
                    intents[step] += 1
    return [f"{token} ran {count} times" for token, count in intents.items() if count > 1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="how long (default 30)")
    parser.add_argument("--seed", type=int, help="go through the same chances again")
    parser.add_argument("--runtime", default="jail", help="jail (default), gvisor, local")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here as well")
    given = parser.parse_args()
    seed = secrets.randbelow(1 << 32) if given.seed is None else given.seed
    print(f"soak: {given.minutes:g} minutes, seed {seed}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as state:
        report = asyncio.run(soak(Path(state), given.minutes * 60, seed, runtime=given.runtime))
    if given.json:
        given.json.write_text(json.dumps(report.as_json(), indent=1) + "\n")
    report.show()
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
