"""How far behind a replica is, against a replica of which everything is known. Pure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replication.applied import Behind, Looks

# Each step takes a time, then the replica receives and applies something, and may be looked at.
STEPS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.integers(0, 4), st.booleans()), max_size=200)


@given(STEPS)
def test_the_truth_is_within_the_bounds(steps: list[tuple[int, int, int, bool]]) -> None:
    looks, now, applied = Looks(), 0, 0
    arrived: list[int] = []  # for each position, when it was received
    for wait, received_more, applied_more, look in steps:
        now += wait
        arrived += [now] * received_more
        applied = min(applied + applied_more, len(arrived))
        if look:
            truth = now - arrived[applied] if applied < len(arrived) else 0
            behind = looks.look(now, len(arrived), applied)
            assert behind.least <= truth <= behind.most


def test_what_is_applied_within_a_look_is_behind_by_no_more_than_that() -> None:
    """However long ago the last commit was: the case of a write after a quiet hour."""
    looks = Looks()
    assert looks.look(0, 10, 10) == (0, 0)
    assert looks.look(3600, 10, 10) == (0, 0)
    assert looks.look(3600.25, 11, 10) == (0, 0.25)
    assert looks.look(3600.5, 12, 11) == (0, 0.25)
    assert looks.look(3600.75, 12, 12) == (0, 0)


def test_what_waits_is_behind_by_as_long_as_it_was_seen_to_wait() -> None:
    looks = Looks()
    looks.look(0, 10, 10)
    for now in range(1, 9):
        assert looks.look(now, 10 + now, 10) == (now - 1, now)
    assert looks.look(9, 18, 14) == (4, 5)


def test_a_first_look_knows_only_what_is_applied() -> None:
    assert Looks().look(5, 10, 10) == (0, 0)
    assert Looks().look(5, 11, 10) == Behind(0, float("inf"))


def test_forgotten_looks_leave_the_bounds_right() -> None:
    looks = Looks()
    looks.look(0, 0, 0)
    for now in range(1, 1001):
        least, most = looks.look(now, now, 0)
        assert least <= now - 1 <= most
    assert looks.look(1001, 1000, 999).most >= 1
    assert looks.look(1002, 1000, 1000) == (0, 0)
