"""Turns of bodies, on a clock of its own. Pure."""

from __future__ import annotations

import pytest

from counters.intake import turns
from counters.intake.turns import FEWEST, LOOK_SECONDS, Turns
from tests.support.clock import Clock

LATE = 0.05


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of(turns, monkeypatch)


def pause_before_the_next(clock: Clock, taken: Turns, seconds: float = LOOK_SECONDS) -> float:
    """Seconds that a body waits for its turn after one that took so long, which is long enough for a look."""
    with taken.taken():
        clock.now += seconds
    before = clock.now
    with taken.taken():
        return clock.now - before


def failing(clock: Clock, taken: Turns) -> None:
    with taken.taken():
        clock.now += LOOK_SECONDS
        raise ZeroDivisionError


@pytest.mark.parametrize(("took", "rest"), [(LATE, 1.0), (LATE / 2, 0.5), (9 * LATE, 1.0), (0.0, 0.0)])
def test_bodies_rest_by_how_late_small_writes_are(clock: Clock, took: float, rest: float) -> None:
    taken = Turns(LATE)
    for _ in range(2 * FEWEST):
        taken.note(took)
    assert pause_before_the_next(clock, taken) == pytest.approx(rest * LOOK_SECONDS)


def test_a_few_late_writes_matter_little_and_soon_no_more(clock: Clock) -> None:
    taken = Turns(LATE)
    taken.note(LATE)
    assert pause_before_the_next(clock, taken) == pytest.approx(LOOK_SECONDS / FEWEST)
    assert pause_before_the_next(clock, taken) == 0


def test_a_body_that_fails_is_followed_by_a_rest_all_the_same(clock: Clock) -> None:
    taken = Turns(LATE)
    for _ in range(FEWEST):
        taken.note(LATE)
    with pytest.raises(ZeroDivisionError):
        failing(clock, taken)
    before = clock.now
    with taken.taken():
        assert clock.now - before == pytest.approx(LOOK_SECONDS)


def test_without_the_limit_bodies_never_rest(clock: Clock) -> None:
    taken = Turns(0)
    for _ in range(FEWEST):
        taken.note(60)
    assert pause_before_the_next(clock, taken) == 0
