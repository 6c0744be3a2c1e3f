"""A minute of `scripts/soak`. SOAK_SECONDS and FAULT_SEED make it longer, or the same again."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from faults.dice import seeds
from soak.run import soak


@pytest.mark.serial
@pytest.mark.long
@pytest.mark.parametrize("seed", seeds(1)[:1])
def test_nothing_is_lost_doubled_or_given_to_another_and_usage_is_flat(
    tmp_path: Path, seed: int
) -> None:
    seconds = float(os.environ.get("SOAK_SECONDS", "60"))
    report = asyncio.run(soak(tmp_path, seconds, seed))
    assert report.problems == [], f"seed {seed}"
    ledger = report.ledger
    for kind in ("http bash", "http calculator", "stdio bash", "files", "process", "code", "run"):
        assert ledger.answered[kind], f"{kind} never came through"
    assert report.killed
    assert ledger.abandoned
    assert any("overloaded" in refused for refused in ledger.refused)
