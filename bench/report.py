"""Figures as a table for a person, and as JSON for a program."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence

from .rows import Figure


def table(figures: Sequence[Figure]) -> str:
    lines = [("", "median", "p95", "", "goal", "beside")]
    for figure in figures:
        row = figure.row
        lines.append(
            (
                row.name,
                _number(figure.median),
                _number(figure.p95),
                row.unit,
                _goal(figure),
                "" if figure.beside is None else f"{_number(figure.beside)} {row.beside}",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    return "\n".join(_line(line, widths) for line in lines)


def as_json(figures: Sequence[Figure]) -> str:
    rows = [
        {
            "name": figure.row.name,
            "what": figure.row.what,
            "unit": figure.row.unit,
            "median": round(figure.median, 3),
            "p95": round(figure.p95, 3),
            "samples": figure.samples,
            "goal": figure.row.goal,
            "met": figure.met,
            "beside": {figure.row.beside: figure.beside} if figure.row.beside else {},
        }
        for figure in figures
    ]
    host = {
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
    return json.dumps({"host": host, "rows": rows}, indent=2)


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    name, median, p95, unit, goal, beside = cells
    padded = (
        *(name.ljust(widths[0]), median.rjust(widths[1]), p95.rjust(widths[2])),
        *(unit.ljust(widths[3]), goal.ljust(widths[4]), beside),
    )
    return "  ".join(padded).rstrip()


def _goal(figure: Figure) -> str:
    if figure.met is None:
        return ""
    sign = ">=" if figure.row.at_least else "<="
    return f"{sign} {_number(figure.row.goal or 0)} {'met' if figure.met else 'missed'}"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
