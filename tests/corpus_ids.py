"""A pytest plugin: every test of an id is found by it, and what came of each is written down.

`-k NW-06` or `-k NW_06` runs what is named after that id and what the tables name for it
(`security/corpus/covered.py`, `faults/promises.py`). `--results FILE` writes, for each test
of an id, how it ended: what scripts/security-report makes its page of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

_ID = re.compile(r"(?<![A-Za-z])([A-Z]{2})_(\d\d)(?!\d)", re.IGNORECASE)
_PROPERTY = "corpus id"
_OUTCOMES = ("skipped", "passed", "failed")
"""The worst of a test's phases counts."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--results", metavar="FILE", help="write how each test of a corpus id ended, as JSON"
    )
    parser.addoption(
        "--ids", action="store_true", help="run the tests of corpus ids, and no others"
    )


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--results")
    if file is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Results(Path(file)))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Before pytest's own, which looks at -k."""
    for item in items:
        for id in ids_of(item.nodeid):
            item.user_properties.append((_PROPERTY, id))
            item.extra_keyword_matches |= {id, id.replace("_", "-")}
    if config.getoption("--ids"):
        config.hook.pytest_deselected(items=[each for each in items if not _ids(each)])
        items[:] = [each for each in items if _ids(each)]


def ids_of(nodeid: str) -> list[str]:
    """The ids that a test is of: by its own name, or by a table."""
    file, _, name = nodeid.partition("::")
    if file.endswith("_complete.py"):
        return []  # it is about the tables
    known, listed = _tables()
    named = {f"{group.upper()}_{number}" for group, number in _ID.findall(name)}
    return sorted((named & known) | listed.get(nodeid.partition("[")[0], set()))


@cache
def _tables() -> tuple[set[str], dict[str, set[str]]]:
    """Every id, and those of the tests that a table names. Read once everything is collected:
    by then whoever asked for it has had the corpus' assertions rewritten."""
    from faults.promises import PROMISES
    from security.corpus.covered import COVERED
    from security.corpus.entries import ENTRIES

    listed: dict[str, set[str]] = {}
    tables: list[Iterable[tuple[str, tuple[str, ...]]]] = [
        COVERED.items(),
        [(id, promise.tests) for id, promise in PROMISES.items()],
    ]
    for table in tables:
        for id, tests in table:
            for test in tests:
                listed.setdefault(test, set()).add(id)
    return ENTRIES.keys() | PROMISES.keys(), listed


def _ids(item: pytest.Item) -> list[str]:
    return [str(value) for name, value in item.user_properties if name == _PROPERTY]


class _Results:
    """Of the process that reports; other ones send it theirs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: dict[str, dict[str, object]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        ids = [str(value) for name, value in report.user_properties if name == _PROPERTY]
        if not ids:
            return
        seen = self._seen.setdefault(
            report.nodeid, {"ids": ids, "outcome": "skipped", "reason": ""}
        )
        before = _OUTCOMES.index(str(seen["outcome"]))
        seen["outcome"] = _OUTCOMES[max(before, _OUTCOMES.index(report.outcome))]
        if report.skipped and isinstance(report.longrepr, tuple):
            seen["reason"] = report.longrepr[2].removeprefix("Skipped: ")

    def pytest_sessionfinish(self) -> None:
        self._file.write_text(json.dumps(self._seen, indent=1, sort_keys=True) + "\n")
