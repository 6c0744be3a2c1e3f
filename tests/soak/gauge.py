"""What a daemon takes of its host, sampled while it is under load."""

from __future__ import annotations

import asyncio
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from faults.remains import tokens
from mas_sandbox.runtimes.cgroup import group_parents
from mas_sandbox.runtimes.ownership import PREFIX

from .tree import below

LIMITS = {
    "anonymous_kb": (1.15, 10240),  # what signs checkpoints comes once, with the thousandth record
    "descriptors": (1.2, 30),
    "threads": (1.2, 4),
    "processes": (1.3, 10),
    "cgroups": (1.3, 6),
}
"""Of each: how much more than early on is still flat, as a ratio and beside it as a number,
which is for what is small and noisy. Whole proportional memory is told, and not judged: it
falls and rises with how many other processes share its pages."""


@dataclass(frozen=True)
class Change:
    """Medians of the second and of the last fifth of the time."""

    name: str
    early: float
    late: float

    @property
    def ratio(self) -> float:
        return self.late / self.early if self.early else float(self.late > 0)

    @property
    def flat(self) -> bool:
        if self.name not in LIMITS:
            return True
        ratio, beside = LIMITS[self.name]
        return self.late <= max(self.early * ratio, self.early + beside)


class Gauge:
    def __init__(self, daemon: int, every_s: float) -> None:
        self._daemon = daemon
        self._every_s = every_s
        self._tokens = tokens(daemon)
        self._seen: dict[str, list[float]] = defaultdict(list)

    async def run(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            for name, value in (await asyncio.to_thread(self._sample)).items():
                self._seen[name].append(value)
            await asyncio.sleep(self._every_s)

    def changes(self) -> list[Change]:
        return [compare(name, values) for name, values in self._seen.items()]

    def _sample(self) -> dict[str, float]:
        place = Path(f"/proc/{self._daemon}")
        memory = (place / "smaps_rollup").read_text()
        self._tokens |= tokens(self._daemon)
        return {
            "pss_kb": _kilobytes(memory, "Pss"),
            "anonymous_kb": _kilobytes(memory, "Pss_Anon"),
            "descriptors": len(os.listdir(place / "fd")),
            "threads": len(os.listdir(place / "task")),
            "processes": len(below(self._daemon)),
            "cgroups": sum(
                len(list(parent.glob(f"{PREFIX}{token}*")))
                for token in self._tokens
                for parent in group_parents()
            ),
        }


def compare(name: str, values: Sequence[float]) -> Change:
    fifth = max(1, len(values) // 5)
    return Change(name, median(values[fifth : 2 * fifth] or values), median(values[-fifth:]))


def _kilobytes(memory: str, name: str) -> float:
    found = re.search(rf"^{name}: +(\d+) kB", memory, re.MULTILINE)
    assert found, memory
    return float(found[1])
