"""What a benchmark is: named rows, and one function that takes the samples of all of them.

Rows that are compared are sampled in turns by the same function, so that whatever else the
machine does falls on both.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Absent:
    """Why a row could not be measured here: a peer that is not installed, say."""

    reason: str


Samples = Mapping[str, "list[float] | Absent"]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `goal`: what the median should not exceed; `at_least` turns it round.
    `beside`: rows of the same benchmark that it is to be read next to: floors and peers."""

    name: str
    unit: str
    what: str
    goal: float | None = None
    at_least: bool = False
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`measure` takes about so many samples of each row: fewer of what takes seconds."""

    rows: tuple[Row, ...]
    measure: Callable[[int], Awaitable[Samples]]


@dataclass(frozen=True, slots=True)
class Figure:
    """What came out of one row. `least`: its best sample; `ratios`: its median to that of
    each row beside it that was measured; `p99`: NaN of fewer samples than 100; `absent`: why it
    was not measured, then the rest is NaN."""

    row: Row
    median: float = math.nan
    p95: float = math.nan
    p99: float = math.nan
    least: float = math.nan
    samples: int = 0
    ratios: Mapping[str, float] = field(default_factory=dict)
    absent: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal was; None where there is none, or no sample."""
        if self.row.goal is None or self.absent:
            return None
        if self.row.at_least:
            return self.median >= self.row.goal
        return self.median <= self.row.goal


def figures(benchmark: Benchmark, samples: Samples) -> list[Figure]:
    """One for each row, in their order. Raises ValueError for a row without samples."""
    medians = {
        name: statistics.median(taken)
        for name, taken in samples.items()
        if not isinstance(taken, Absent) and taken
    }
    return [_figure(row, samples.get(row.name), medians) for row in benchmark.rows]


def _figure(row: Row, taken: list[float] | Absent | None, medians: Mapping[str, float]) -> Figure:
    if isinstance(taken, Absent):
        return Figure(row, absent=taken.reason)
    if not taken:
        raise ValueError(f"{row.name}: no sample was taken")
    median = medians[row.name]
    ratios = {name: median / medians[name] for name in row.beside if medians.get(name)}
    p99 = percentile(taken, 99) if len(taken) >= 100 else math.nan
    return Figure(row, median, percentile(taken, 95), p99, min(taken), len(taken), ratios)


def percentile(samples: list[float], percent: int) -> float:
    """The smallest sample that so many percent do not exceed."""
    ordered = sorted(samples)
    return ordered[-(-len(ordered) * percent // 100) - 1]
