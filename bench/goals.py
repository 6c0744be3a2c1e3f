"""What speed is wanted, by ratios wherever a ratio says more than a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .oneshot import LAUNCHERS
from .rows import Figure

Medians = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Goal:
    """`value`: from the medians by row; KeyError where one of them was not measured.
    `blame`: what a profile says takes the time, told where the goal is missed."""

    what: str
    limit: float
    unit: str
    value: Callable[[Medians], float]
    blame: str = ""
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """`value`: None where a row that it needs is absent."""

    goal: Goal
    value: float | None

    @property
    def met(self) -> bool:
        if self.value is None:
            return False
        return (
            self.value >= self.goal.limit if self.goal.at_least else self.value <= self.goal.limit
        )

    @property
    def missed_by(self) -> float:
        """How many times what it should be, or the part that is missing."""
        return 0.0 if self.value is None else self.value / self.goal.limit


def verdicts(figures: Sequence[Figure]) -> list[Verdict]:
    """What became of each goal."""
    medians = {figure.row.name: figure.median for figure in figures if not figure.absent}
    return [Verdict(goal, _value(goal, medians)) for goal in GOALS]


def _value(goal: Goal, medians: Medians) -> float | None:
    try:
        return goal.value(medians)
    except KeyError:
        return None


def _ratio(row: str, beside: str) -> Callable[[Medians], float]:
    return lambda medians: medians[row] / medians[beside]


def _above(row: str, beside: str) -> Callable[[Medians], float]:
    return lambda medians: medians[row] - medians[beside]


def _of(row: str) -> Callable[[Medians], float]:
    return lambda medians: medians[row]


_BLAME_FRESH = {
    "bubblewrap": "of the time from the order to a jail that answers, two thirds are an "
    "interpreter that starts and imports the toolrunner, and a sixth is bubblewrap",
    "zygote": "a half is the jail: a fork of Python into new namespaces, some 5 ms, a third of "
    "them pages that it writes to for the first time; the rest is the call in it: another fork, "
    "Landlock, and bash (`floor-echo`)",
}
_BLAME_LIVE = (
    "two fifths of what is above the route are the daemon's own (`refused` less `bare-route`: "
    "HTTP, and two records on disk, one after the other); the rest is the call's process, told, "
    "run and reaped, and the channel"
)
_BLAME_RATE = (
    "processor time: a jail's namespaces are made and unmade by the kernel, and each daemon "
    "is one thread of Python"
)


def _fresh(launcher: str) -> list[Goal]:
    ending = "" if launcher == LAUNCHERS[0] else f"-{launcher}"
    row, blame = f"echo-direct-cold{ending}", _BLAME_FRESH[launcher]
    what = f"fresh jail by {launcher}, one-shot `echo`, no pool"
    return [
        Goal(f"{what}, to sandlock", 0.5, "x", _ratio(row, "sandlock-echo"), blame),
        Goal(f"{what}, to bare bubblewrap", 1.3, "x", _ratio(row, "bwrap-echo"), blame),
    ]


GOALS = (
    *(goal for launcher in LAUNCHERS for goal in _fresh(launcher)),
    Goal(
        *("the same from the pool, over HTTP, above `fork+exec bash`", 3, "ms"),
        _above("echo-http-pool", "floor-echo"),
        "4 ms are the client's, HTTP's and the two records' (`refused`); the rest is the call in "
        "a jail that has rehearsed (`echo-direct-pool`), whose place in the pool is filled "
        "meanwhile",
    ),
    Goal(
        *("`calculator` in a live jail over HTTP, to the bare Starlette route", 2, "x"),
        *(_ratio("live-calculator", "bare-route"), _BLAME_LIVE),
    ),
    *(
        Goal(
            f"fresh jailed calls per second, by {launcher}",
            250,
            "1/s",
            _of(f"fresh-per-second-8{'' if launcher == LAUNCHERS[0] else f'-{launcher}'}"),
            _BLAME_RATE,
            at_least=True,
        )
        for launcher in LAUNCHERS
    ),
    Goal(
        *("VM clone to first result, emulated", 100, "ms", _of("clone-first-result")),
        "the emulator translates 24,000 blocks of the guest's code that a restored machine has "
        "not met, half of them the interpreter's",
    ),
    Goal("policy decision", 30, "us", _of("policy-decision")),
    Goal(
        *("an audit append, to a live call that waits for two", 0.5, "x"),
        _ratio("audit-append", "live-calculator"),
        "the disk's fsync: see the row `sync-alone`",
    ),
    Goal("daemon, idle", 80, "MiB", _of("daemon-idle")),
    Goal(
        *("daemon, for each 1,000 calls more", 0.1, "MiB", _of("daemon-growth")),
        "what the allocator has not reached its level with yet; measure with more calls",
    ),
    Goal(
        *("stdio daemon start to first answer", 150, "ms", _of("stdio-start-local")),
        "imports are half of it (asyncio, jsonschema-rs, dataclasses); then the toolrunner, which "
        "is another interpreter that starts",
    ),
)
