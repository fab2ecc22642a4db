"""What becomes of increments when limits are reached. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counters.intake.admission import Admission, Limits, Seen
from sharding.lanes import EXCESS, Lane

LANE, OTHER = Lane(0, 0), Lane(0, 1)


@dataclass
class Part:
    """A write's increments."""

    increments: dict[Lane, int]
    counts: dict[str, int] = field(default_factory=dict)


def lane_of(key: str) -> Lane:
    return OTHER if key.startswith("other") else LANE


@given(
    st.lists(st.dictionaries(st.sampled_from(["a", "b", "other"]), st.integers(1, 9), min_size=1), max_size=30),
    *(st.integers(0, 40) for _ in range(4)),
)
def test_neither_the_rate_nor_the_room_is_exceeded_and_nothing_is_shed_without_need(
    writes: list[dict[str, int]], rate: int, room: int, used: int, excess: int
) -> None:
    admission = Admission(Limits(rate, room=room), Seen({"a": used, "b": 0, "other": 0}, set(), {0: excess}), {"b": 1})
    fresh, spilled = {"a": used, "b": 1, "other": 0}, excess
    for counts in writes:
        split = admission.split(Part({LANE: 1, OTHER: 1}, counts), lane_of)
        assert not split.full
        for key, count in counts.items():
            if key in split.excess:
                assert fresh[key] + count > rate
                spilled += count
                assert spilled <= room
            elif key in split.refused:
                assert fresh[key] + count > rate
                assert spilled + count > room
            else:
                fresh[key] += count
                assert fresh[key] <= rate


def test_a_full_lane_takes_nothing_and_leaves_room_to_others() -> None:
    admission = Admission(Limits(1, room=1), Seen({"a": 1, "other": 1}, {LANE}, {}), {})
    split = admission.split(Part({LANE: 5, OTHER: 5}, {"a": 1, "other": 1}), lane_of)
    assert split == ({"other"}, set(), {LANE: "backlog"})


def test_what_is_spilled_at_once_needs_room_as_well() -> None:
    admission = Admission(Limits(room=10), Seen({}, set(), {0: 4}), {})
    assert [admission.split(Part({LANE.of(EXCESS): 3}), lane_of).full for _ in range(3)] == [
        {},
        {},
        {LANE.of(EXCESS): "excess"},
    ]


def test_a_key_that_was_not_looked_up_is_calm() -> None:
    assert not Admission(Limits(1), Seen({}, set(), {}), {}).split(Part({LANE: 9}, {"a": 9}), lane_of).changes


@pytest.mark.parametrize(
    ("rate", "quantum", "least"), [(1, 1, 1), (50, 1, 1), (5000, 5, 1), (100_000, 100, 10), (10**9, 100, 10)]
)
def test_small_rates_are_exact_and_calm_keys_cheap(rate: int, quantum: int, least: int) -> None:
    limits = Limits(rate)
    assert (limits.quantum, limits.least) == (quantum, least)


def test_what_is_known_after_two_looks() -> None:
    first, second = Seen({"a": 1}, {LANE}, {0: 5}), Seen({"a": 2, "b": 0}, {OTHER}, {1: 7})
    assert second.after(first) == ({"a": 2, "b": 0}, {LANE, OTHER}, {0: 5, 1: 7})
