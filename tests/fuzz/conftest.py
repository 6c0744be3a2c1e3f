"""Failures of fuzzers tell the seed they were found with."""

from __future__ import annotations

from typing import Any

import pytest

from fuzz.engine import EFFORT, SEED


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.failed and "tests/fuzz" in item.nodeid:
        report.sections.append(("again", f"FUZZ_SEED={SEED} FUZZ_EFFORT={EFFORT:g}"))
    return report
