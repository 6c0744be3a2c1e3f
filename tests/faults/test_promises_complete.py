"""Every promise has tests that are there, and one that is named after it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from faults.promises import PROMISES

ROOT = Path(__file__).parents[2]
_TEST = re.compile(r"^(?:async )?def (test_\w+)\(", re.MULTILINE)
_ID = re.compile(r"FI_\d\d")


def test_the_promises_are_numbered_without_a_gap() -> None:
    assert list(PROMISES) == [f"FI_{number:02}" for number in range(1, 19)]


def test_no_test_is_named_after_a_promise_that_was_never_made() -> None:
    assert named() <= PROMISES.keys()


@pytest.mark.parametrize("id", PROMISES)
def test_a_promise_is_held_by_a_test(id: str) -> None:
    assert id in named() or PROMISES[id].tests


@pytest.mark.parametrize("test", sorted({each for p in PROMISES.values() for each in p.tests}))
def test_what_holds_a_promise_is_there(test: str) -> None:
    path, _, name = test.partition("::")
    assert name in _TEST.findall((ROOT / path).read_text())


def named() -> set[str]:
    """Ids that are in the names or parameters of tests."""
    texts = [path.read_text() for path in (ROOT / "tests").glob("**/test_*.py")]
    return {id for text in texts if Path(__file__).read_text() != text for id in _ID.findall(text)}
