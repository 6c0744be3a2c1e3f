"""The harness: what a row becomes, and that it runs. No time is judged here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from bench.report import table  # noqa: E402
from bench.rows import Benchmark, Row, figures, percentile  # noqa: E402


async def unmeasured(runs: int) -> dict[str, list[float]]:
    raise AssertionError("its samples are given")


QUICK = Row("quick", "ms", "what has a goal", goal=2)
SLOW = Row("slow", "ms", "what misses it", goal=2, beside=("quick",))
MANY = Row("many", "", "what is to be reached", goal=16, at_least=True)
THREE = Benchmark((QUICK, SLOW, MANY), unmeasured)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_row_is_measured_and_told_to_a_program() -> None:
    ran = run("--json", "--runs", "1", "sync-alone")
    assert ran.returncode == 0, ran.stderr
    (row,) = json.loads(ran.stdout)["rows"]
    assert (row["name"], row["unit"], row["samples"]) == ("sync-alone", "ms", 2)
    assert 0 < row["median"] <= row["p95"]


def test_a_figure_says_whether_its_goal_was_met_and_what_it_is_beside() -> None:
    samples = {"quick": [1.0, 2.0, 9.0], "slow": [3.0], "many": [15.0]}
    found = figures(THREE, samples)
    assert [figure.met for figure in found] == [True, False, False]
    assert (found[0].median, found[0].p95, found[1].ratios) == (2.0, 9.0, {"quick": 1.5})
    assert [line.split()[-3:] for line in table(found).splitlines()[1:]] == [
        ["<=", "2.00", "met"],
        ["1.50", "x", "quick"],
        [">=", "16.0", "missed"],
    ]


def test_a_row_without_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="slow"):
        figures(THREE, {"quick": [1.0], "slow": [], "many": [16.0]})


def test_a_percentile_is_a_sample_that_so_many_do_not_exceed() -> None:
    assert percentile([float(number) for number in range(20, 0, -1)], 95) == 19
    assert percentile([float(number) for number in range(1000)], 99) == 989
    assert percentile([7.0], 95) == 7


def test_a_row_of_few_samples_has_no_p99() -> None:
    for count in (99, 100):
        (found, *_) = figures(THREE, {name: [1.0] * count for name in ("quick", "slow", "many")})
        assert math.isnan(found.p99) == (count < 100)


@pytest.mark.parametrize("arguments", [["nothing-like-it"], ["--runs"], ["--fast"]])
def test_wrong_usage_is_told(arguments: list[str]) -> None:
    ran = run(*arguments)
    assert (ran.returncode, ran.stdout) == (64, "")
    assert "see --" in ran.stderr


def test_every_row_has_a_name_of_its_own() -> None:
    lines = run("--list").stdout.splitlines()
    names = [line.split()[0] for line in lines]
    assert len(set(names)) == len(names) > 10
