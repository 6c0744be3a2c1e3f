"""What a benchmark is: named rows, and one function that takes the samples of all of them.

Rows that are compared are sampled in turns by the same function, so that whatever else the
machine does falls on both.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

Samples = Mapping[str, list[float]]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `goal`: what the median should not exceed; `at_least` turns it round.
    `beside`: the row of the same benchmark that it is to be read next to."""

    name: str
    unit: str
    what: str
    goal: float | None = None
    at_least: bool = False
    beside: str = ""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """`measure` takes about so many samples of each row: fewer of what takes seconds."""

    rows: tuple[Row, ...]
    measure: Callable[[int], Awaitable[Samples]]


@dataclass(frozen=True, slots=True)
class Figure:
    """What came out of one row."""

    row: Row
    median: float
    p95: float
    samples: int
    beside: float | None

    @property
    def met(self) -> bool | None:
        """Whether the goal was; None where there is none."""
        if self.row.goal is None:
            return None
        if self.row.at_least:
            return self.median >= self.row.goal
        return self.median <= self.row.goal


def figures(benchmark: Benchmark, samples: Samples) -> list[Figure]:
    """One for each row, in their order. Raises ValueError for a row without samples."""
    found = []
    for row in benchmark.rows:
        taken = samples.get(row.name)
        if not taken:
            raise ValueError(f"{row.name}: no sample was taken")
        beside = statistics.median(samples[row.beside]) if row.beside else None
        found.append(Figure(row, statistics.median(taken), p95(taken), len(taken), beside))
    return found


def p95(samples: list[float]) -> float:
    """The smallest sample that 95 % do not exceed."""
    ordered = sorted(samples)
    return ordered[-(-len(ordered) * 95 // 100) - 1]
