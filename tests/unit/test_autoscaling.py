"""The decision of `cluster autoscale`: soon more, late less, and never up and down with a steady load."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.autoscaling import Course, Rule, look

RULE = Rule(least=1, most=8)
AGES = st.one_of(st.none(), st.floats(0, 20))


def run(rule: Rule, ages: Sequence[float | None], workers: int = 1) -> list[int]:
    """The number of workers after each look, one a second."""
    course, found = Course(workers), []
    for second, age in enumerate(ages):
        course = look(rule, course, float(second), age)
        found.append(course.workers)
    return found


def changes(numbers: list[int]) -> int:
    return sum(before != after for before, after in pairwise(numbers))


@given(st.lists(AGES, max_size=300), st.integers(0, 20))
def test_it_stays_within_its_bounds_and_goes_one_step_at_a_time(ages: list[float | None], workers: int) -> None:
    found = run(Rule(least=2, most=5, up_seconds=2, down_seconds=5), ages, workers)
    assert all(2 <= number <= 5 for number in found)
    assert all(abs(before - after) <= 1 for before, after in pairwise(found))


@given(st.lists(st.one_of(st.none(), st.floats(RULE.early, RULE.late)), max_size=300), st.integers(1, 8))
def test_between_early_and_late_nothing_changes(ages: list[float | None], workers: int) -> None:
    assert set(run(RULE, ages, workers)) <= {workers}


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


def test_nobody_knowing_the_age_changes_nothing() -> None:
    assert changes(run(RULE, [None] * 600, 4)) == 0


def simulated(load: list[float], each: float = 1.0) -> list[int]:
    """Workers second by second, for so much work that comes in each second, of which a worker does `each`."""
    course, waiting, found = Course(1), 0.0, []
    for second, more in enumerate(load):
        rate = course.workers * each
        waiting = max(0.0, waiting + more - rate)
        course = look(RULE, course, float(second), waiting / rate)
        found.append(course.workers)
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


@pytest.mark.parametrize(
    "given", [{"least": 0, "most": 2}, {"least": 3, "most": 2}, {"least": 1, "most": 2, "early": 9}]
)
def test_a_rule_that_cannot_be_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="least from 1 to most"):
        Rule(**given)
