"""Writes of likes: events, each in two lanes.

A write has one operation for each lane, with the halves of all its events that belong there: by item, in the lane of the
count (key: the count, other: the liker), and by user (key: the liker, other: the count). Both are of one flush, so they
have the same version, and what decides about an event is the same on both sides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from counters.batch import Events
from counters.intake import writes
from counters.intake.idempotency import Claim
from counters.intake.writes import Write
from likes.events import Event, folded
from likes.names import COUNTS, LIKERS, count_key
from sharding import topology
from sharding.lanes import FRESH, Lane, Queue
from sharding.slots import slots_of
from sharding.topology import Topology

KIND = "like"


def write(events: Sequence[Event], claim: Claim | None = None, queue: Queue = FRESH, *, least: int = 1) -> Write:
    """Build a write of one event or more, with valid names, without a result. Repeats are left out.

    An item counts for its rate if it has `least` events or more here; 0: none does.
    """
    left = folded(events)
    counts = Counter(event.item for event in left) if least else {}
    in_force = topology.current()
    return writes.routed(
        _halves(left, in_force),
        in_force.version,
        claim,
        counts={count_key(item): count for item, count in counts.items() if count >= least},
        queue=queue,
    )


def awaited(event: Event, claim: Claim | None = None) -> Write:
    """Build a write of one event whose result a client waits for: the count, and whether the event changed it
    (`Outcome.changed`)."""
    in_force = topology.current()
    halves = _halves([event], in_force, awaited=in_force.lane_of(count_key(event.item)))
    built = writes.routed(halves, in_force.version, claim)
    built.outcome = Future()
    return built


def _halves(events: Sequence[Event], in_force: Topology, awaited: Lane | None = None) -> dict[Lane, Events]:
    """The events of each lane, by item and by user; those of the lane `awaited` have a result."""
    items, users, likeds, ats, ids = zip(*events, strict=True)
    counts, likers = [COUNTS + item for item in items], [LIKERS + user for user in users]
    parts: dict[int, list[list[Any]]] = {}  # of each lane, the columns of both sides
    for keys, others in ((counts, likers), (likers, counts)):
        places: dict[int, list[int]] = {}
        for place, slot in enumerate(slots_of(keys)):
            places.setdefault(in_force.routes[slot], []).append(place)
        for route, some in places.items():
            columns = parts.setdefault(route, [[], [], [], [], []])
            for column, whole in zip(columns, (keys, others, ats, likeds, ids), strict=True):
                column.extend([whole[place] for place in some])
    return {
        in_force.lanes[route]: Events(KIND, keys, others, columns, in_force.lanes[route] == awaited)
        for route, (keys, others, *columns) in parts.items()
    }
