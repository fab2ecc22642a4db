"""Lanes: a shard's slots in runs, each with a journal, a lock and a state row of its own. Pure.

A lane is the unit of order and of parallel work: what Kafka calls a partition. Lane `n` of a shard has those of the
shard's slots that lie in the n-th of `lanes` equal runs of all 1024. The number of lanes is a power of two up to 16,
the number of the table's partitions, so a lane is a whole number of partitions, and two lanes never write to the same
one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sharding.slots import SLOTS

PARTITIONS = 16  # of the table `counter`, by slot
MOST = PARTITIONS
LOCK_ID = 0x7A11  # first half of a lane's advisory lock in its shard, the second is its number: one applying transaction a lane at a time
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
        """The lane that is printed so. Raises `ValueError`."""
        shard, _, number = text.partition(".")
        lane = cls(int(shard), int(number))
        if str(lane) != text or not 0 <= lane.number < MOST:
            raise ValueError(f"not a lane: {text}")
        return lane


def number_of(slot: int, lanes: int) -> int:
    """The number of the lane that a slot belongs to, in its shard."""
    return slot * lanes // SLOTS


def slots_of(number: int, lanes: int) -> range:
    """The run of slots of a lane, whoever owns them."""
    each = SLOTS // lanes
    return range(number * each, (number + 1) * each)


def check(lanes: int) -> int:
    """The number of lanes, if a shard may have so many. Raises `ValueError`."""
    if lanes not in COUNTS:
        raise ValueError(f"the number of lanes must be {RULE}, not {lanes}")
    return lanes


def by_shard(lanes: Iterable[Lane]) -> dict[int, list[Lane]]:
    """Lanes grouped by their shard, order kept."""
    groups: dict[int, list[Lane]] = {}
    for lane in lanes:
        groups.setdefault(lane.shard, []).append(lane)
    return groups
