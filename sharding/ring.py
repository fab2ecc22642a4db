"""Consistent hashing with virtual nodes (Karger et al., 1997) and bounded loads: plans which shard should own which
slot.

It is a planner, not a router: nothing looks up a key here. Routing reads the topology, which is a plan put in force.

Plain consistent hashing is uneven by about 1/sqrt(virtual nodes). With a bound on each shard's share (Mirrokni et al.,
"Consistent Hashing with Bounded Loads", 2016) every shard gets 1024/N slots, within one. Growth starts from the plan in
force: a new shard takes the slots it lacks from shards that have too many, and no slot moves between old shards.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from hashlib import blake2b

from sharding.slots import SLOTS

VIRTUAL_NODES = 128


def _point(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _preferences(shards: int) -> list[list[int]]:
    """For each slot, the shards in the order in which they follow its point on the ring."""
    ring = sorted((_point(f"shard-{shard}/{node}"), shard) for shard in range(shards) for node in range(VIRTUAL_NODES))
    following = _following([shard for _, shard in ring])
    points = [point for point, _ in ring]
    return [following[bisect(points, _point(f"slot-{slot}")) % len(ring)] for slot in range(SLOTS)]


def _following(ring: Sequence[int]) -> list[list[int]]:
    """For each place on the ring, the shards in the order in which they follow it: that of the next place, with the shard
    of this one moved to the front. A first time round finds the order at the end."""
    order: list[int] = []
    orders: list[list[int]] = []
    for shard in reversed([*ring, *ring]):
        order = [shard, *(other for other in order if other != shard)]
        orders.append(order)
    return orders[: len(ring) - 1 : -1]


def _shares(shards: int) -> list[int]:
    """How many slots each shard gets: 1024/N, the remainder to the first."""
    return [SLOTS // shards + (shard < SLOTS % shards) for shard in range(shards)]


def plan(shards: int) -> list[int]:
    """Slot → shard for a new system of `shards` shards. Raises `ValueError` unless they are 1 to 1024."""
    if not 1 <= shards <= SLOTS:
        raise ValueError(f"shards must be 1 to {SLOTS}, not {shards}")
    return grow([0] * SLOTS, shards)


def grow(owners: Sequence[int], shards: int) -> list[int]:
    """The plan after adding shards, `shards` in all; slots move only to the new ones.

    `owners` is the map in force: slot → shard, 1024 entries, each below `shards`. Raises `ValueError` otherwise.
    """
    if len(owners) != SLOTS or max(owners) >= shards:
        raise ValueError(f"owners must map {SLOTS} slots to shards below {shards}")
    planned, old = list(owners), max(owners) + 1
    room = [share - planned.count(shard) for shard, share in enumerate(_shares(shards))]
    preferences = _preferences(shards)
    for rank in range(shards):
        for slot, order in enumerate(preferences):
            new, owner = order[rank], planned[slot]
            if new >= old > owner and room[new] > 0 > room[owner]:
                planned[slot] = new
                room[new] -= 1
                room[owner] += 1
    return planned
