"""What is written of a whole run: goals, what they are missed by, and the chart."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).parents[3]))

from bench.chart import bars
from bench.goals import GOALS, verdicts
from bench.rows import Absent, Benchmark, Figure, Row, figures


def measured(name: str, median: float) -> Figure:
    return Figure(Row(name, "ms", "a row"), median, median, median, 1)


def test_a_goal_is_a_ratio_of_what_was_measured_and_says_by_how_much_it_is_missed() -> None:
    rows = [measured("echo-direct-cold", 8.0), measured("bwrap-echo", 4.0)]
    found = {verdict.goal.what: verdict for verdict in verdicts(rows)}
    bare = found["fresh jail by zygote, one-shot `echo`, no pool, to bare bubblewrap"]
    assert (bare.value, bare.met, round(bare.missed_by, 3)) == (2.0, False, round(2 / 1.3, 3))
    peer = found["fresh jail by zygote, one-shot `echo`, no pool, to sandlock"]
    assert (peer.value, peer.met) == (None, False)


def test_a_rate_is_met_above_its_goal() -> None:
    for rate, met in ((251.0, True), (249.0, False)):
        found = [
            verdict
            for verdict in verdicts([measured("fresh-per-second-8", rate)])
            if verdict.value is not None
        ]
        assert [verdict.met for verdict in found] == [met]


def test_every_goal_is_of_rows_that_there_are() -> None:
    from bench.__main__ import benchmarks

    names = [row.name for benchmark in benchmarks(10) for row in benchmark.rows]
    assert all(one.value is not None for one in verdicts([measured(each, 1.0) for each in names]))
    assert len(GOALS) >= 8


def test_a_row_that_is_absent_says_why_and_is_in_no_ratio() -> None:
    rows = (
        Row("ours", "ms", "", beside=("floor", "peer")),
        Row("floor", "ms", ""),
        Row("peer", "ms", ""),
    )

    async def unmeasured(runs: int) -> dict[str, list[float]]:
        raise AssertionError("its samples are given")

    samples = {"ours": [4.0], "floor": [2.0], "peer": Absent("not installed")}
    ours, _, peer = figures(Benchmark(rows, unmeasured), samples)
    assert (ours.ratios, ours.absent) == ({"floor": 2.0}, "")
    assert (peer.absent, peer.met, peer.samples) == ("not installed", None, 0)


def test_the_chart_is_xml_with_a_longer_bar_for_a_longer_time() -> None:
    chart = bars("a < b", [("short", 1.5, "ours"), ("long", 150.0, "peer")])
    root = ElementTree.fromstring(chart)
    space = "{http://www.w3.org/2000/svg}"
    widths = [int(bar.get("width", "0")) for bar in root.findall(f"{space}rect")[1:]]
    assert widths[0] < widths[1]
    texts = [text.text for text in root.findall(f"{space}text")]
    assert {"a < b", "short", "long", "150.0"} <= set(texts)
