"""The guard: what it calls too slow. How fast anything is, is not judged here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from bench.guard import THRESHOLDS, too_slow
from bench.rows import Absent

FIRST = THRESHOLDS[0]


def test_a_row_beyond_its_threshold_is_told_with_the_ratio_and_both_figures() -> None:
    samples = {FIRST.row: [4.0 * FIRST.limit, 2.5 * FIRST.limit], FIRST.beside: [2.0, 1.0]}
    (said,) = too_slow(samples)
    assert said.startswith(f"{FIRST.row}: {2.5 * FIRST.limit:.1f} x {FIRST.beside}")


def test_one_slow_sample_of_a_busy_machine_is_nothing() -> None:
    samples = {FIRST.row: [FIRST.limit, 50.0 * FIRST.limit], FIRST.beside: [1.0, 40.0]}
    assert too_slow(samples) == []


def test_what_cannot_be_measured_is_not_passed_over() -> None:
    samples = {FIRST.row: Absent("no jail here"), FIRST.beside: [1.0]}
    assert too_slow(samples) == [f"{FIRST.row}: no jail here"]


def test_every_threshold_has_a_row_and_leaves_room() -> None:
    assert len({threshold.row for threshold in THRESHOLDS}) == len(THRESHOLDS)
    assert all(threshold.limit > 1 for threshold in THRESHOLDS)
