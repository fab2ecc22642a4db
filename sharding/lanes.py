"""Lanes: runs of a shard's slots, each with its own journal, lock and state row. Pure.

A lane is the unit of order and of parallel work, like a partition in Kafka. Lane `n` of a shard has the shard's slots
that lie in the n-th of `lanes` equal runs of all 1024. The number of lanes is a power of two up to 16, the number of
the table's partitions. So a lane is a whole number of partitions, and two lanes never write to the same one.

A lane has three queues: *fresh*, what is applied in order, and the spill queues *excess* (increments of too hot a key,
or of low priority) and *stale* (increments that were too old when a worker found them). Each is a journal of its own,
with its own place in the ledger and its own lease. They share the lane's lock and its row of state, as they write to the
same counters. A `Lane` names a queue of a lane; without one it is the fresh queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from sharding.slots import SLOTS

PARTITIONS = 16  # of the table `counter`, by slot
MOST = PARTITIONS
# First half of a lane's advisory lock in its shard; the second is the lane's number. One applying transaction per lane.
LOCK_ID = 0x7A11
COUNTS = (1, 2, 4, 8, 16)
RULE = f"one of {', '.join(map(str, COUNTS))}"
Queue = Literal["fresh", "excess", "stale"]
FRESH: Queue = "fresh"
EXCESS: Queue = "excess"
STALE: Queue = "stale"
QUEUES = (FRESH, EXCESS, STALE)
SPILL: tuple[Queue, ...] = (EXCESS, STALE)
PLACES = MOST * len(QUEUES)


class Lane(NamedTuple):
    """A queue of one lane of one shard; printed as `shard.number`, or `shard.number:queue` for a spill queue."""

    shard: int
    number: int
    queue: Queue = FRESH

    def __str__(self) -> str:
        return f"{self.shard}.{self.number}" + ("" if self.queue == FRESH else f":{self.queue}")

    @property
    def place(self) -> int:
        """Its number among all queues of the shard's lanes, as the ledger has it."""
        return self.number + MOST * QUEUES.index(self.queue)

    @property
    def spills(self) -> bool:
        """Whether it is a spill queue."""
        return self.queue != FRESH

    def of(self, queue: Queue) -> Lane:
        """Another queue of the same lane."""
        return Lane(self.shard, self.number, queue)

    @classmethod
    def at(cls, shard: int, place: int) -> Lane:
        """The queue at a place of the ledger."""
        return cls(shard, place % MOST, QUEUES[place // MOST])

    @classmethod
    def parse(cls, text: str) -> Lane:
        """Parse a printed lane. Raises `ValueError`."""
        printed, _, name = text.partition(":")
        shard, _, number = printed.partition(".")
        queue = next((one for one in SPILL if one == name), FRESH)
        lane = cls(int(shard), int(number), queue)
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
