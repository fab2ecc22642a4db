"""The decision of `cluster autoscale`: soon more, late less, and never up and down with a steady load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.autoscaling import USAGE_SECONDS, Course, Rule, Usage, look
from cluster.commands import API

RULE = Rule(least=1, most=8)
API_RULE = replace(API, least=1, most=8)
LOADS = st.one_of(st.none(), st.floats(0, 20))


def run(rule: Rule, loads: Sequence[float | None], workers: int = 1) -> list[int]:
    """The number of workers after each look, one a second."""
    course, found = Course(workers), []
    for second, load in enumerate(loads):
        course = look(rule, course, float(second), load)
        found.append(course.running)
    return found


def changes(numbers: list[int]) -> int:
    return sum(before != after for before, after in pairwise(numbers))


@given(st.lists(LOADS, max_size=300), st.integers(0, 20))
def test_it_stays_within_its_bounds_and_goes_one_step_at_a_time(loads: list[float | None], workers: int) -> None:
    found = run(Rule(least=2, most=5, up_seconds=2, down_seconds=5), loads, workers)
    assert all(2 <= number <= 5 for number in found)
    assert all(abs(before - after) <= 1 for before, after in pairwise(found))


@given(st.lists(st.one_of(st.none(), st.floats(RULE.low, RULE.high)), max_size=300), st.integers(1, 8))
def test_between_low_and_high_nothing_changes(loads: list[float | None], workers: int) -> None:
    assert set(run(RULE, loads, workers)) <= {workers}


def test_a_moment_changes_nothing() -> None:
    assert changes(run(RULE, [20.0, 0.0] * 200, 4)) == 0
    assert changes(run(RULE, ([20.0] * 9 + [3.0]) * 20, 4)) == 0


def test_more_comes_soon_and_less_late() -> None:
    more = run(RULE, [20.0] * 60)
    assert more.index(2) == 10
    assert more[-1] == 6
    less = run(RULE, [0.0] * 200, 3)
    assert less.index(2) == 60
    assert less[-1] == 1


def test_nobody_knowing_the_load_changes_nothing() -> None:
    assert changes(run(RULE, [None] * 600, 4)) == 0


def simulated(load: list[float], each: float = 1.0) -> list[int]:
    """Workers second by second, for so much work that comes in each second, of which a worker does `each`."""
    course, waiting, found = Course(1), 0.0, []
    for second, more in enumerate(load):
        rate = course.running * each
        waiting = max(0.0, waiting + more - rate)
        course = look(RULE, course, float(second), waiting / rate)
        found.append(course.running)
    return found


def test_a_load_that_rises_and_falls_is_followed() -> None:
    found = simulated([0.5] * 300 + [3.5] * 900 + [0.5] * 1800)
    assert set(found[:300]) == {1}
    assert min(found[400:1200]) >= 3
    assert found[-1] == 1


def test_a_steady_load_does_not_go_up_and_down() -> None:
    """Three workers are too few and four are idle at times: it tries less again and again, but ever more seldom."""
    found = simulated([3.5] * 7200)
    assert changes(found[:1800]) <= 16
    assert changes(found[3600:]) <= 8


@pytest.mark.parametrize("given", [{"least": 0, "most": 2}, {"least": 3, "most": 2}, {"least": 1, "most": 2, "low": 9}])
def test_a_rule_that_cannot_be_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="least from 1 to most"):
        Rule(**given)


def processors(load: list[float]) -> list[int]:
    """API processes second by second, for a load that would keep so many processors busy. It is shared evenly."""
    course, usage, found = Course(1), Usage(), []
    used: dict[int, float] = {}
    for second, busy in enumerate(load):
        used = {process: used.get(process, 0.0) + min(1.0, busy / course.running) for process in range(course.running)}
        course = look(API_RULE, course, float(second), usage.look(float(second), used))
        found.append(course.running)
    return found


def test_api_processes_follow_the_processor_time() -> None:
    found = processors([0.1] * 300 + [2.0] * 900 + [0.1] * 1800)
    assert set(found[:300]) == {1}
    assert set(found[400:1200]) == {3}
    assert found[-1] == 1


@pytest.mark.parametrize("load", [0.25, 0.65, 0.75, 1.3, 2.0, 2.9, 4.1])
def test_api_processes_do_not_go_up_and_down_with_a_steady_load(load: float) -> None:
    """One process less never has more than `high`: the rule's two loads are far enough apart."""
    assert changes(processors([load] * 3600)) == processors([load] * 3600)[-1] - 1


def test_a_look_without_enough_time_knows_nothing() -> None:
    usage = Usage()
    assert [usage.look(float(second), {1: 0.5 * second}) for second in range(8)] == [None] * int(USAGE_SECONDS) + [
        0.5
    ] * 3


def test_a_process_that_has_just_begun_or_ended_does_not_count() -> None:
    usage = Usage()
    for second in range(6):
        usage.look(float(second), {1: 0.2 * second, 2: 9.0})
    assert usage.look(6.0, {1: 1.2, 3: 50.0}) == pytest.approx(0.2)
    assert usage.look(7.0, {4: 1.0}) is None
