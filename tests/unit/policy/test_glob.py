"""Globs match as the simplest possible matcher does, and in linear time."""

from __future__ import annotations

import itertools
import time

import pytest

from mas_sandbox.policy.glob import MAX_SUBJECT, compile_glob


def by_definition(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(by_definition(pattern[1:], text[n:]) for n in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and by_definition(pattern[1:], text[1:])


def test_every_short_pattern_agrees_with_the_definition() -> None:
    texts = ["".join(t) for n in range(6) for t in itertools.product("ab", repeat=n)]
    for length in range(1, 6):
        for pattern in map("".join, itertools.product("ab*?", repeat=length)):
            matches = compile_glob(pattern)
            for text in texts:
                assert matches(text) == by_definition(pattern, text), (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("[a-z]", "a", False),
        ("[a-z]", "[a-z]", True),
        ("a\\*", "a\\b", True),
        ("*.py", "x.py\n", False),
        ("a*", "a\nb", True),
        ("ä?", "äö", True),
    ],
)
def test_nothing_but_star_and_question_mark_is_special(
    pattern: str, text: str, expected: bool
) -> None:
    assert compile_glob(pattern)(text) is expected


def test_patterns_that_ruin_backtracking_matchers_stay_linear() -> None:
    """Twice the text takes about twice the time; a backtracking matcher would take 2^30."""
    for pattern in ("*" + "a?" * 60 + "b*", "*a" * 100 + "*b", "*" + "aaaa?" * 20 + "*c*"):
        matches = compile_glob(pattern)
        times = []
        for size in (MAX_SUBJECT // 8, MAX_SUBJECT):
            text = "a" * size
            began = time.process_time()
            assert not matches(text)
            times.append(time.process_time() - began)
        assert times[1] < 40 * max(times[0], 0.001), pattern
