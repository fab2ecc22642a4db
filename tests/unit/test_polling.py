"""Polling, on a clock of its own. Pure."""

from __future__ import annotations

from time import monotonic

import pytest

from runtime import polling
from tests.support.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of(polling, monkeypatch)


def test_the_first_attempt_is_made_at_once_and_the_last_at_the_end(clock: Clock) -> None:
    assert list(polling.attempts(1, pause=0.25)) == [1, 0.75, 0.5, 0.25, 0]
    assert clock.pauses == [0.25] * 4


def test_the_last_pause_ends_with_the_time(clock: Clock) -> None:
    assert list(polling.attempts(1, pause=0.75)) == [1, 0.25, 0]
    assert clock.pauses == [0.75, 0.25]


def test_pauses_grow_up_to_the_longest(clock: Clock) -> None:
    assert len(list(polling.attempts(16, pause=1, grow=2, most=5))) == 6
    assert clock.pauses == [1, 2, 4, 5, 4]


def test_no_time_is_one_attempt(clock: Clock) -> None:
    assert list(polling.attempts(0, pause=1)) == [0]
    assert clock.pauses == []


def test_an_attempt_that_ends_late_is_the_last(clock: Clock) -> None:
    seen = []
    for left in polling.attempts(1, pause=0.5):
        seen.append(left)
        clock.now += 2
    assert seen == [1]
    assert clock.pauses == []


def test_until_returns_the_first_true_answer(clock: Clock) -> None:
    answers = iter(["", "", "so", "never asked"])
    assert polling.until(lambda: next(answers), 60, pause=1) == "so"
    assert clock.pauses == [1, 1]


def test_until_returns_the_last_answer_if_none_is_true(clock: Clock) -> None:
    assert polling.until(lambda: [], 2, pause=1) == []
    assert clock.pauses == [1, 1]


def test_it_waits_by_the_real_clock() -> None:
    began = monotonic()
    assert not polling.until(lambda: False, 0.05, pause=0.01)
    assert monotonic() - began >= 0.05
