"""Lanes: runs of a shard's slots, each with its own journal, lock and state row. Pure.

A lane is the unit of order and of parallel work, like a partition in Kafka. Lane `n` of a shard has the shard's slots
that lie in the n-th of `lanes` equal runs of all 1024. The number of lanes is a power of two up to 16, the number of
the table's partitions. So a lane is a whole number of partitions, and two lanes never write to the same one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sharding.slots import SLOTS

PARTITIONS = 16  # of the table `counter`, by slot
MOST = PARTITIONS
# First half of a lane's advisory lock in its shard; the second is the lane's number. One applying transaction per lane.
LOCK_ID = 0x7A11
COUNTS = (1, 2, 4, 8, 16)
RULE = f"one of {', '.join(map(str, COUNTS))}"


class Lane(NamedTuple):
    """One lane of one shard; printed as `shard.number`."""

    shard: int
    number: int

    def __str__(self) -> str:
        return f"{self.shard}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> Lane:
        """Parse a printed lane. Raises `ValueError`."""
        shard, _, number = text.partition(".")
        lane = cls(int(shard), int(number))
        if str(lane) != text or not 0 <= lane.number < MOST:
            raise ValueError(f"not a lane: {text}")
        return lane


def number_of(slot: int, lanes: int) -> int:
    """The number, within its shard, of the lane that a slot belongs to."""
    return slot * lanes // SLOTS


def slots_of(number: int, lanes: int) -> range:
    """The run of slots of a lane, including slots that other shards own."""
    each = SLOTS // lanes
    return range(number * each, (number + 1) * each)


def check(lanes: int) -> int:
    """Return the number of lanes if a shard may have it. Raises `ValueError` otherwise."""
    if lanes not in COUNTS:
        raise ValueError(f"the number of lanes must be {RULE}, not {lanes}")
    return lanes


def by_shard(lanes: Iterable[Lane]) -> dict[int, list[Lane]]:
    """Lanes grouped by shard, in their order."""
    groups: dict[int, list[Lane]] = {}
    for lane in lanes:
        groups.setdefault(lane.shard, []).append(lane)
    return groups
