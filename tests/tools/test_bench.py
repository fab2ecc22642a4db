"""The bench itself (`make bench`), tiny: what it writes, and that a wrong count does not pass. No figure is
asserted."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from benchmarks import document, pages
from benchmarks.chaos.subject import Subject
from benchmarks.context import Context, ExpectedCounts
from benchmarks.document import Goal, Part
from benchmarks.figures import FIGURES, autoscale, overload, single
from benchmarks.figures.overload import flood, probe
from benchmarks.figures.overload.flood import Kind, Losses, Told
from benchmarks.figures.overload.probe import Probed
from benchmarks.load import wire
from benchmarks.load.wire import Lost, Result
from tests.support.cluster import Cluster


@pytest.fixture
def context(cluster: Cluster, tmp_path: Path) -> Iterator[Context]:
    """Measures once, for a thirtieth of the time."""
    with Progress(disable=True) as progress:
        yield Context(Subject(cluster.dir), tmp_path, progress, progress.add_task(""), repeats=1, scale=1 / 30)


@pytest.mark.parametrize("name", ["reads", "wait"])
def test_a_figure_is_measured_counted_and_written(context: Context, tmp_path: Path, name: str) -> None:
    path = tmp_path / "bench.json"
    part = FIGURES[name].run(context)
    assert part.wrong == []
    assert part.checks
    assert all(" 0 increments" not in line and line.endswith("exact") for line in part.checks)
    document.save(document.merge(document.load(path), {name: part}, list(FIGURES), 0.1), path)
    found = json.loads(path.read_text())
    assert found["machine"]["cores"]
    for one in found["figures"]:
        assert one["value"] > 0
        assert {"name", "unit", "peer", "peer_value", "ratio", "goal", "met"} <= set(one)
        assert one["commit"] == found["commit"] != ""
    table = pages.markdown(found["figures"])
    assert all(one["name"] in table for one in found["figures"])


def test_a_wrong_count_is_found(context: Context) -> None:
    part = Part()
    load = single.Single(context, part)
    load.tally(6)
    with context.subject.database(0) as conn:
        key = conn.execute(
            "SELECT key FROM counter WHERE key LIKE %s LIMIT 1", (load.expected.prefix + "%",)
        ).fetchall()[0][0]
        conn.execute("UPDATE counter SET value = value + 1 WHERE key = %s", (key,))
        conn.execute(
            "UPDATE counter SET value = value - 1 WHERE key = (SELECT max(key) FROM counter WHERE key LIKE %s)",
            (load.expected.prefix + "%",),
        )
    load.expected.compare()
    assert any(
        text.startswith(f"Tally, {load.expected.prefix}*: {key}: counted") and text.endswith("(primary)")
        for text in part.wrong
    )
    assert any(text.endswith("(standby)") for text in part.wrong)


def test_a_lost_sum_is_found(context: Context) -> None:
    """What was never counted: the bench does not wait for ever, and says what is missing."""
    part = Part()
    expected = ExpectedCounts(context, f"never{context.run}:", part, context.subject)
    expected.add({f"{expected.prefix}a": 3})
    expected.compare(patience=1)
    assert any("0 of 3 increments" in text for text in part.wrong)


def test_an_answer_that_is_not_the_right_one_ends_the_measurement(context: Context) -> None:
    bad = wire.http("POST", "/v1/increments", b"{}", {**context.authorization, "Content-Type": "application/json"})
    with pytest.raises(RuntimeError, match=r"answers other than 202: \{'400'"):
        context.load(context.addresses(), [bad], connections=2, seconds=3, status=202)


def test_a_rate_is_kept_and_latency_counts_from_when_a_request_was_due(context: Context) -> None:
    request = wire.http("GET", "/v1/counters/test")
    result = context.load(context.addresses(), [request], connections=4, seconds=30, rate=50)
    assert 45 <= result.count <= 51
    assert 0 < result.quantile(0.5) <= result.quantile(0.99) < 1


def test_an_overload_is_offered_counted_and_over(context: Context) -> None:
    context.scale /= 2
    part = Part()
    with probe.probing(context, part) as probes:
        for kind in (flood.SINGLE._replace(drawn=500, crowd=300), Kind("bulk", "ob", 100, 500, 8, 4, 40)):
            outcome = overload.overloaded(context, part, kind, probes)
            assert 0 < outcome.accepted <= outcome.offered
            assert outcome.back < probe.PATIENCE_SECONDS
            assert sum(point["offered"] or 0 for point in outcome.curve) > 0
    assert part.wrong == []
    assert len(part.checks) == 5
    assert all(line.endswith("exact") for line in part.checks)


def test_what_an_accepted_write_lost() -> None:
    drawn = ["a", "b", "a", "c"]
    told = b'{"accepted": 2, "excess": ["b"], "refused": [{"key": "a", "rule": "key-rate"}]}'
    assert flood.losses(Lost(0, 1.5, told), drawn) == Losses(1.5, 1, Counter({"a": 2}))
    assert flood.losses(Lost(0, 1.5, b'{"status": "excess"}'), ["a"]) == Losses(1.5, 1, Counter())


@pytest.mark.parametrize(
    ("numbers", "did"), [([1, 2, 3, 2, 1], True), ([2, 4, 2], True), ([2], False), ([1, 2], False), ([2, 1, 2], False)]
)
def test_a_figure_of_autoscaling_needs_both_ways(numbers: list[int], did: bool) -> None:
    assert autoscale.went_and_came_back(numbers) is did


def test_a_flood_is_told_in_increments() -> None:
    """Three bodies of four increments, one of them in part; two more were refused."""
    result = Result(
        answered=[2, 1],
        started=0.0,
        seconds=2.0,
        cpu_seconds=0.0,
        latencies=b"",
        failures={},
        at=array("f", [0.1, 0.2, 1.1]).tobytes(),
        refused={"429": array("f", [0.3]).tobytes(), "503": array("f", [1.9]).tobytes()},
    )
    told = Told(result, 4, [Losses(0.2, 1, Counter({"a": 2}))])
    assert (told.offered, told.accepted, told.refused) == (20, 10, {"a": 2})
    rates = {name: list(rate) for name, rate in told.rates(np.array([0.0, 1.0, 2.0])).items()}
    assert rates == {"offered": [12, 8], "accepted": [6, 4], "spilled": [1, 0], "refused": [6, 4]}


@pytest.mark.parametrize(
    ("results", "since"),
    [
        ([(10.0, 0.1), (11.0, 0.1), (12.5, 0.1)], 10.0),
        ([(9.0, None), (10.5, 0.9), (12.0, 0.1), (13.5, 0.1)], 11.4),
        ([(10.5, 0.1), (11.0, None), (12.5, 0.1), (13.0, 0.1)], None),
        ([], None),
    ],
)
def test_all_is_as_before_after_a_streak_of_quick_results(
    results: list[tuple[float, float | None]], since: float | None
) -> None:
    assert probe.normal_since([Probed(*one) for one in results], 10.0) == since


@pytest.mark.parametrize(
    ("goal", "value", "ratio", "met"),
    [
        (Goal("ratio", "≥", 1.5), 1.0, 1.5, True),
        (Goal("ratio", "≥", 1.5), 9.0, 1.49, False),
        (Goal("ratio", "≥", 1.5), 9.0, None, False),
        (Goal("value", "≤", 15), 15.0, None, True),
        (Goal("value", "≤", 15), 15.1, None, False),
    ],
)
def test_a_goal(goal: Goal, value: float, ratio: float | None, met: bool) -> None:
    assert goal.met(value, ratio) is met


def test_a_part_of_a_run_keeps_the_other_figures() -> None:
    old = {
        "figures": [{"of": "wait", "name": "kept"}, {"of": "bulk", "name": "replaced"}],
        "checks": {"wait": ["exact"]},
    }
    found = document.merge(
        old, {"bulk": Part(figures=[document.figure("new", "s", [1.0, 3.0, 2.0])])}, ["bulk", "wait"], 1
    )
    assert [one["name"] for one in found["figures"]] == ["new", "kept"]
    assert (found["figures"][0]["value"], found["figures"][0]["spread"]) == (2.0, 100.0)
    assert found["checks"]["wait"] == ["exact"]


@pytest.mark.parametrize(
    ("value", "text"), [(1234567.0, "1,230,000"), (999.6, "1000"), (12.34, "12.3"), (0.01234, "0.0123"), (None, "")]
)
def test_three_digits(value: float | None, text: str) -> None:
    assert pages.number(value) == text
