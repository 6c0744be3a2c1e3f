"""Every entry of the corpus is a row, a named test elsewhere, or is listed with the reason."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from security.corpus import egress, files, kernel, network, processes, resources, tenants
from security.corpus.covered import COVERED
from security.corpus.entries import ENTRIES
from security.corpus.listed import listed

ROOT = Path(__file__).parents[2]
ROWS = {
    row.id
    for room in (egress, files, kernel, network, processes, resources, tenants)
    for row in room.ROWS
}


def test_nothing_is_named_that_is_not_in_the_corpus() -> None:
    assert ROWS | COVERED.keys() | listed().keys() <= ENTRIES.keys()


@pytest.mark.parametrize("id", ENTRIES)
def test_an_entry_is_covered_or_says_why_not(id: str) -> None:
    covered = id in ROWS or id in COVERED
    assert covered != (id in listed())


@pytest.mark.parametrize("test", sorted({test for tests in COVERED.values() for test in tests}))
def test_what_covers_an_entry_is_there(test: str) -> None:
    path, _, name = test.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_the_report_knows_every_id() -> None:
    """It is written by a run of the tests: scripts/security-report."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "security_report.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
