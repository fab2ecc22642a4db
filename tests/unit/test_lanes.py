"""Which slots a lane has. Pure."""

from __future__ import annotations

import pytest

from sharding import lanes
from sharding.lanes import Lane


def test_every_slot_has_one_lane() -> None:
    for count in lanes.COUNTS:
        slots = [slot for number in range(count) for slot in lanes.slots_of(number, count)]
        assert slots == list(range(1024))
        assert all(
            lanes.number_of(slot, count) == number for number in range(count) for slot in lanes.slots_of(number, count)
        )
        assert all(len(lanes.slots_of(number, count)) % (1024 // lanes.PARTITIONS) == 0 for number in range(count))
    with pytest.raises(ValueError, match="must be one of 1, 2, 4, 8, 16, not 3"):
        lanes.check(3)


@pytest.mark.parametrize(
    "text", ["", "0", "0.16", "00.1", "0.01", "0.-1", "a.b", "0.1.2", "0.1:", "0.1:fresh", "0.1:x", "0.1:stale:"]
)
def test_what_is_no_lane_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - int() says it in its own words
        Lane.parse(text)


def test_each_queue_of_a_lane_has_a_place_and_a_name() -> None:
    every = [Lane(3, number, queue) for queue in lanes.QUEUES for number in range(lanes.MOST)]
    assert [lane.place for lane in every] == list(range(lanes.PLACES))
    assert [Lane.at(3, place) for place in range(lanes.PLACES)] == every
    assert [Lane.parse(str(lane)) for lane in every] == every
    assert [str(Lane(0, 3, queue)) for queue in lanes.QUEUES] == ["0.3", "0.3:excess", "0.3:stale"]
    assert Lane(0, 3).of(lanes.STALE).of(lanes.FRESH) == Lane(0, 3)
