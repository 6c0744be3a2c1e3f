"""Writes docs/security-report.md; see scripts/security-report."""

from __future__ import annotations

import json
import platform
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from faults.promises import PROMISES  # noqa: E402
from security.corpus.entries import ENTRIES  # noqa: E402
from security.corpus.listed import listed  # noqa: E402
from security.corpus.reach import RUNTIMES, reason, runtimes_of  # noqa: E402

PATH = ROOT / "docs" / "security-report.md"
_LETTERS = "LJGV"
_ROW = re.compile(r"^\| ([A-Z]{2}-\d\d) \| (.+) \|$", re.MULTILINE)
INTRODUCTION = """\
# Security report

<!-- Written by scripts/security-report from a run of the tests. -->

What was tried, in which runtime, and whether it held: one row for each entry of the security
corpus, then one for each promise about faults. A number says how many tests held it; a letter
leads to the reason why none ran. A dash: not promised. `pytest -k NW-06` runs those of one id.

A test of what every runtime shares (the daemon, its front doors, the channel, the way out, the
toolrunner and its tools) counts in each column; `tests/security/corpus/reach.py` says which do.

"""
CORPUS = """\
## Attempts

| id | attempt | local | jail | gVisor | microVM |
|---|---|---|---|---|---|
"""
FAULTS = """
## Faults

| id | fault | promise | |
|---|---|---|---|
"""


@dataclass
class Tally:
    """Of the tests of one id in one runtime."""

    passed: int = 0
    failed: int = 0
    skipped: set[str] = field(default_factory=set)


class Notes:
    """Reasons, each under a letter of its own."""

    def __init__(self) -> None:
        self._letters: dict[str, str] = {}

    def letter(self, reason: str) -> str:
        number = len(self._letters)
        name = chr(ord("a") + number % 26) * (1 + number // 26)
        return self._letters.setdefault(reason, name)

    def lines(self) -> Iterator[str]:
        for text, letter in self._letters.items():
            yield f"- **{letter}** {text}\n"


def document(results: dict[str, dict[str, object]]) -> str:
    """The whole page. Raises ValueError for an id that has neither a test nor a reason."""
    tallies = tally(results)
    notes = Notes()
    without = listed()
    parts = [INTRODUCTION, _ran(results), CORPUS]
    for id, entry in ENTRIES.items():
        cells = [
            "-" if letter == "-" else _cell(tallies, id, runtime, notes, without.get(id, ""))
            for runtime, letter in zip(RUNTIMES, entry.letters, strict=True)
        ]
        parts.append(f"| {_name(id)} | {_text(entry.attempt)} | {' | '.join(cells)} |\n")
    parts.append(FAULTS)
    for id, promise in PROMISES.items():
        cell = _fault_cell(tallies, id)
        short = f" ({promise.short})" if promise.short else ""
        told = _text(promise.promise + short)
        parts.append(f"| {_name(id)} | {_text(promise.fault)} | {told} | {cell} |\n")
    return "".join([*parts, "\n## Not run\n\n", *notes.lines()])


def merged(runs: list[dict[str, dict[str, object]]]) -> dict[str, dict[str, object]]:
    """The last result of each test; one that failed before is said to have been run `again`."""
    results: dict[str, dict[str, object]] = {}
    for run in runs:
        for nodeid, result in run.items():
            before = results.get(nodeid, {})
            again = before.get("again") or before.get("outcome") == "failed"
            results[nodeid] = result | {"again": bool(again)}
    return results


def tally(results: dict[str, dict[str, object]]) -> dict[tuple[str, str], Tally]:
    """By id and runtime."""
    found: dict[tuple[str, str], Tally] = {}
    for nodeid, result in results.items():
        ids = result["ids"]
        assert isinstance(ids, list)
        for id in ids:
            for runtime in runtimes_of(nodeid):
                each = found.setdefault((id, runtime), Tally())
                match result["outcome"]:
                    case "passed":
                        each.passed += 1
                    case "failed":
                        each.failed += 1
                    case _:
                        each.skipped.add(str(result["reason"]))
    return found


def _cell(
    tallies: dict[tuple[str, str], Tally], id: str, runtime: str, notes: Notes, why: str
) -> str:
    found = tallies.get((id, runtime), Tally())
    if found.failed:
        return f"**failed {found.failed}**"
    if found.passed:
        return f"held {found.passed}"
    why = why or "; ".join(sorted(found.skipped)) or reason(id, runtime)
    if not why:
        raise ValueError(f"{id} in {runtime}: neither a test nor a reason")
    return f"not run {notes.letter(why)}"


def _fault_cell(tallies: dict[tuple[str, str], Tally], id: str) -> str:
    of = [found for (one, _), found in tallies.items() if one == id]
    if any(each.failed for each in of):
        return "**failed**"
    if not any(each.passed for each in of):
        raise ValueError(f"{id}: no test ran")
    return "held"


def _ran(results: dict[str, dict[str, object]]) -> str:
    outcomes = [str(result["outcome"]) for result in results.values()]
    kinds = [each for each in ("passed", "failed", "skipped") if each in outcomes]
    counts = ", ".join(f"{outcomes.count(each)} {each}" for each in kinds)
    again = sum(bool(result["again"]) for result in results.values())
    if again:
        counts += f"; {again} had failed in an earlier run, and were run again"
    kernel = ".".join(platform.release().split(".")[:2])
    return f"{len(outcomes)} tests ({counts}) on Linux {kernel}, {platform.machine()}.\n\n"


def _name(id: str) -> str:
    return id.replace("_", "-")


def _text(words: str) -> str:
    return words.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


def stale() -> list[str]:
    """What the page says that the tables do not, or the other way round."""
    rows = dict(_ROW.findall(PATH.read_text())) if PATH.exists() else {}
    wrong = []
    for id, entry in ENTRIES.items():
        attempt, *cells = [*rows.pop(_name(id), "").rsplit(" | ", 4), "", "", "", ""][:5]
        alike = attempt == _text(entry.attempt) and all(
            (cell == "-") == (letter == "-") and cell.startswith(("held", "not run", "-"))
            for cell, letter in zip(cells, entry.letters, strict=True)
        )
        if not alike:
            wrong.append(f"{_name(id)} is not told of as it is in the corpus, or did not hold")
    for id, promise in PROMISES.items():
        short = f" ({promise.short})" if promise.short else ""
        told = f"{_text(promise.fault)} | {_text(promise.promise + short)} | held"
        if rows.pop(_name(id), "") != told:
            wrong.append(f"{_name(id)} is not told of as it is promised, or did not hold")
    return [*wrong, *(f"{id} is no id" for id in rows)]


def main(arguments: list[str]) -> int:
    """The exit status: 1 for a page that is not current, or tests without a result."""
    match arguments:
        case ["--check"]:
            wrong = stale()
            for line in [*wrong, "run scripts/security-report"] if wrong else []:
                print(line, file=sys.stderr)  # noqa: T201
            return 1 if wrong else 0
        case ["--results", *files] if files:
            try:
                PATH.write_text(document(merged([json.loads(Path(f).read_text()) for f in files])))
            except ValueError as error:
                print(error, file=sys.stderr)  # noqa: T201
                return 1
            return 0
        case _:
            print("scripts/security-report --help", file=sys.stderr)  # noqa: T201
            return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
