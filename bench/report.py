"""Figures as a table for a person, and as JSON for a program."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from .rows import Figure

COLUMNS = ("", "median", "p95", "p99", "", "goal", "beside")


def table(figures: Sequence[Figure]) -> str:
    lines = [COLUMNS, *(cells(figure) for figure in figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(7)]
    return "\n".join(_line(line, widths) for line in lines)


def cells(figure: Figure) -> tuple[str, str, str, str, str, str, str]:
    """As `COLUMNS` has them."""
    row = figure.row
    if figure.absent:
        return row.name, "-", "-", "-", "", "", f"not measured: {figure.absent}"
    beside = ", ".join(f"{number(ratio)} x {name}" for name, ratio in figure.ratios.items())
    numbers = number(figure.median), number(figure.p95), number(figure.p99)
    return row.name, *numbers, row.unit, _goal(figure), beside


def as_json(figures: Sequence[Figure], **more: object) -> str:
    """`more`: what else is to be told, by name."""
    rows = [_as_object(figure) for figure in figures]
    return json.dumps({"host": host(), **more, "rows": rows}, indent=2)


def host() -> Mapping[str, Any]:
    """The machine that was measured."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def number(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _as_object(figure: Figure) -> dict[str, Any]:
    named = {"name": figure.row.name, "what": figure.row.what, "unit": figure.row.unit}
    if figure.absent:
        return {**named, "absent": figure.absent}
    return {
        **named,
        "median": round(figure.median, 3),
        "p95": round(figure.p95, 3),
        "p99": None if math.isnan(figure.p99) else round(figure.p99, 3),
        "least": round(figure.least, 3),
        "samples": figure.samples,
        "goal": figure.row.goal,
        "met": figure.met,
        "ratios": {name: round(ratio, 3) for name, ratio in figure.ratios.items()},
    }


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    name, median, p95, p99, unit, goal, beside = cells
    padded = (
        *(name.ljust(widths[0]), median.rjust(widths[1]), p95.rjust(widths[2])),
        *(p99.rjust(widths[3]), unit.ljust(widths[4]), goal.ljust(widths[5]), beside),
    )
    return "  ".join(padded).rstrip()


def _goal(figure: Figure) -> str:
    if figure.met is None:
        return ""
    sign = ">=" if figure.row.at_least else "<="
    return f"{sign} {number(figure.row.goal or 0)} {'met' if figure.met else 'missed'}"
