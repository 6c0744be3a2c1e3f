"""bench/RESULTS.md, and beside it the same as JSON and a chart."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from .chart import bars
from .goals import Verdict, verdicts
from .peers.install import PEERS
from .report import as_json, cells, host, number
from .rows import Figure

_HERE = Path(__file__).parent
_CHART = (
    ("floor-echo", "fork and exec", "floor"),
    ("bwrap-echo", "bare bubblewrap", "floor"),
    ("echo-http-pool", "jail, pool, HTTP", "ours"),
    ("echo-direct-cold", "jail, fresh", "ours"),
    ("echo-direct-cold-bubblewrap", "jail, fresh, by bubblewrap", "ours"),
    ("echo-gvisor", "gVisor, fresh", "ours"),
    ("clone-first-result", "machine, fresh (calculator)", "ours"),
    ("sandlock-echo", "sandlock", "peer"),
    ("llm-sandbox-echo", "llm-sandbox (bubblewrap)", "peer"),
    ("sandbox-runtime-echo", "sandbox-runtime", "peer"),
    ("runsc-echo", "runsc do", "peer"),
    ("swe-rex-echo", "SWE-ReX local (no wall)", "peer"),
)


def write(sections: Sequence[Sequence[Figure]], failures: Sequence[str], took_s: float) -> Path:
    """Write the three files; the path of the first. `sections`: the figures of a benchmark
    each; `failures`: of benchmarks that have none."""
    figures = [figure for section in sections for figure in section]
    judged = verdicts(figures)
    goals = [
        {"what": one.goal.what, "limit": one.goal.limit, "value": one.value, "met": one.met}
        for one in judged
    ]
    (_HERE / "results.json").write_text(as_json(figures, goals=goals) + "\n")
    chart = _chart(figures)
    if chart:
        (_HERE / "results.svg").write_text(chart)
    results = _HERE / "RESULTS.md"
    results.write_text("\n".join(_text(sections, judged, failures, took_s)) + "\n")
    return results


def _text(
    sections: Sequence[Sequence[Figure]],
    judged: Sequence[Verdict],
    failures: Sequence[str],
    took_s: float,
) -> list[str]:
    lines = [
        "# Results",
        "",
        f"Written by `scripts/bench` on {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, "
        f"in {took_s / 60:.0f} minutes. [Benchmarks](../docs/benchmarks.md) says what the rows "
        "are and how they are measured.",
        "",
        *_machine(),
        "",
        "## Goals",
        "",
        "| goal | wanted | measured | | |",
        "|---|---|---|---|---|",
        *map(_of_goal, judged),
        "",
        "![One echo in a sandbox, of each kind](results.svg)",
        "",
        "Peers: " + ", ".join(peer.requirement or peer.name for peer in PEERS) + ".",
    ]
    for section in sections:
        lines += ["", f"## {section[0].row.name} ...", ""]
        lines += ["| row | least | median | p95 | p99 | | goal | ratio of medians | what |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        lines += [_of_figure(figure) for figure in section]
    if failures:
        lines += ["", "## Not measured", "", *(f"- {failure}" for failure in failures)]
    return lines


def _machine() -> list[str]:
    about = host()
    processors = os.cpu_count() or 1
    lines = [
        f"{about['processors']} processors, {about['system']}, {about['machine']}, Python "
        f"{about['python']}."
    ]
    load = os.getloadavg()[2]
    if load > 2 * processors:
        lines.append(
            f"**The machine was not quiet**: its load was {load:.0f} over the last quarter of an "
            f"hour, on {processors} processors. Read ratios, which are of samples taken in "
            "turns; times are too long."
        )
    return lines


def _of_goal(verdict: Verdict) -> str:
    goal = verdict.goal
    wanted = f"{'>=' if goal.at_least else '<='} {number(goal.limit)} {goal.unit}"
    if verdict.value is None:
        return f"| {goal.what} | {wanted} | not measured | | |"
    measured = f"{number(verdict.value)} {goal.unit}"
    if verdict.met:
        return f"| {goal.what} | {wanted} | {measured} | met | |"
    how = f"**missed**: {number(verdict.missed_by)} times that"
    return f"| {goal.what} | {wanted} | {measured} | {how} | {goal.blame} |"


def _of_figure(figure: Figure) -> str:
    name, *numbers, unit, goal, beside = cells(figure)
    what = figure.row.what.replace("|", "\\|")
    least = "-" if figure.absent else number(figure.least)
    return f"| {' | '.join((f'`{name}`', least, *numbers, unit, goal, beside, what))} |"


def _chart(figures: Sequence[Figure]) -> str:
    medians = {figure.row.name: figure.median for figure in figures if not figure.absent}
    values = [(name, medians[row], whose) for row, name, whose in _CHART if row in medians]
    return bars("One `echo hi` in a sandbox: milliseconds, medians", values) if values else ""
