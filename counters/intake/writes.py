"""A write: one request's operations, encoded for each lane that they touch."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from counters import batch
from counters.batch import Increments, Operation, Step
from counters.intake.admission import NOTHING_SHED, Rule, Shed, Split
from counters.intake.idempotency import Claim
from counters.outcome import Outcome
from counters.write_id import WriteId
from sharding import topology
from sharding.lanes import EXCESS, FRESH, Lane, Queue
from sharding.slots import slots_of
from sharding.topology import Topology

if TYPE_CHECKING:
    from counters.intake.columns import Columns  # needs pyarrow


@dataclass(frozen=True, slots=True)
class Accepted:
    """A write that is in the journal, and what limits took out of it. `repeated`: an earlier request with the same
    idempotency key made it; its `version` is not known then (0)."""

    id: WriteId
    shed: Shed = NOTHING_SHED
    repeated: bool = False
    version: int = 0

    @property
    def queue(self) -> Queue:
        """The queue of a single-key write."""
        return self.id.lanes[0].queue


@dataclass(slots=True, eq=False)
class Write:
    """One request's operations: an encoded operation per lane, routed by that version of the topology.

    `increments` is how many there are for each lane, and `counts` for each key that counts for its rate. `size` is the bytes
    of a bulk write's operations, 0 for a write of one counter or like.
    """

    operations: dict[Lane, msgspec.Raw]
    topology_version: int
    increments: Mapping[Lane, int]
    claim: Claim | None = None
    outcome: Future[Outcome] | None = None  # set if a client waits for the result
    counts: Mapping[str, int] = field(default_factory=dict)
    size: int = 0


def increment(key: str, delta: int, claim: Claim | None = None, queue: Queue = FRESH) -> Write:
    """Build a write that adds to one counter, without a result."""
    in_force = topology.current()
    lane = in_force.lane_of(key)
    operations = {lane: batch.encode_segment(Increments([key], [delta]))}
    return _queued(Write(operations, in_force.version, {lane: 1}, claim, counts={key: 1}), queue)


def increments(
    folded: dict[str, int] | Columns,
    claim: Claim | None = None,
    count: int | None = None,
    counts: Mapping[str, int] | None = None,
    queue: Queue = FRESH,
) -> Write:
    """Build a write that adds to many keys; `folded` has valid keys and 64-bit deltas.

    `count` is the number of increments before folding, `counts` that of keys that count for their rate.
    """
    in_force = topology.current()
    segments = _segments(folded, in_force) if isinstance(folded, dict) else folded.segments(in_force)
    # How many of them a lane has is estimated by its part of the bytes: an exact count would be one more look at each key.
    size = sum(map(len, segments.values()))
    share = (count or len(folded)) / size
    by_lane = {lane: max(1, round(share * len(part))) for lane, part in segments.items()}
    return _queued(Write(segments, in_force.version, by_lane, claim, counts=counts or {}, size=size), queue)


def _queued(write: Write, queue: Queue) -> Write:
    """The same write for another queue of its lanes. What is spilled at once does not count for the rate of a key."""
    if queue == FRESH:
        return write
    operations = {lane.of(queue): operation for lane, operation in write.operations.items()}
    by_lane = {lane.of(queue): count for lane, count in write.increments.items()}
    return Write(operations, write.topology_version, by_lane, write.claim, size=write.size)


def _segments(folded: dict[str, int], in_force: Topology) -> dict[Lane, msgspec.Raw]:
    """Like `Columns.segments`."""
    routes = in_force.routes
    keys: list[list[str]] = [[] for _ in in_force.lanes]
    deltas: list[list[int]] = [[] for _ in in_force.lanes]
    for slot, (key, delta) in zip(slots_of(folded), folded.items(), strict=True):
        route = routes[slot]
        keys[route].append(key)
        deltas[route].append(delta)
    parts = zip(in_force.lanes, keys, deltas, strict=True)
    return {lane: batch.encode_segment(Increments(some, sums)) for lane, some, sums in parts if some}


def step(operation: Step, claim: Claim | None = None) -> Write:
    """Build a write of one operation with a result."""
    in_force = topology.current()
    lane = in_force.lane_of(operation.key)
    return Write({lane: batch.encode_segment(operation)}, in_force.version, {lane: 1}, claim, Future())


def routed(
    operations: Mapping[Lane, Operation],
    topology_version: int,
    claim: Claim | None = None,
    *,
    counts: Mapping[str, int] | None = None,
    queue: Queue = FRESH,
) -> Write:
    """Build a write of operations that this version of the topology has routed, without a result."""
    encoded = {lane: batch.encode_segment(operation) for lane, operation in sorted(operations.items())}
    by_lane = {lane: len(operation.keys) for lane, operation in operations.items()}
    size = (
        sum(map(len, encoded.values())) if sum(by_lane.values()) > 2 else 0
    )  # one event has two keys: its twin's, too
    return _queued(Write(encoded, topology_version, by_lane, claim, counts=counts or {}, size=size), queue)


def without(write: Write, split: Split) -> tuple[Write, Shed]:
    """What of a write remains, each part for the queue that it goes to, and what it lost. Nothing remains if it has no
    operations.

    An event that is refused in one lane is refused in the lane of its twin, too. What is spilled has its twin where it was.
    """
    operations: dict[Lane, msgspec.Raw] = {}
    by_lane: dict[Lane, int] = {}
    excess: list[str] = []
    decoded = {lane: batch.decode_segment(encoded) for lane, encoded in write.operations.items()}
    refused = _refused(decoded, split)
    lost = {key for keys in refused.values() for key in keys}
    for lane, whole in decoded.items():
        if lane in split.full:
            continue
        operation = whole.without_twins_of(lost)
        spilled, gone = split.excess.intersection(operation.keys), lost.intersection(operation.keys)
        if not spilled and not gone and operation is whole:
            operations[lane], by_lane[lane] = write.operations[lane], write.increments[lane]
            continue
        if kept := set(operation.keys) - spilled - gone:
            remains = operation.restricted_to(kept)
            operations[lane] = batch.encode_segment(remains)
            others = sum(write.counts[key] for key in (*spilled, *gone)) + len(whole.keys) - len(operation.keys)
            by_lane[lane] = max(len(remains.keys), write.increments[lane] - others)
        if spilled:
            to = lane.of(EXCESS)
            operations[to] = batch.encode_segment(operation.restricted_to(spilled))
            by_lane[to] = sum(write.counts[key] for key in spilled)
            excess += sorted(spilled)
    lost |= set(excess)
    counts = {key: count for key, count in write.counts.items() if key not in lost}
    remaining = Write(
        dict(sorted(operations.items())), write.topology_version, by_lane, write.claim, write.outcome, counts
    )
    return remaining, Shed(tuple(excess), refused)


def _refused(operations: Mapping[Lane, Operation], split: Split) -> dict[Rule, tuple[str, ...]]:
    """The keys of a write that are refused, by rule: all that it has for a full lane, and those that are too hot."""
    refused: dict[Rule, tuple[str, ...]] = {}
    for lane, operation in operations.items():
        if (rule := split.full.get(lane)) is not None:
            refused[rule] = (*refused.get(rule, ()), *dict.fromkeys(operation.keys))
        elif gone := split.refused.intersection(operation.keys):
            refused["key-rate"] = (*refused.get("key-rate", ()), *sorted(gone))
    return refused
