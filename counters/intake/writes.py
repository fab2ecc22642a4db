"""A write: one request's operations, encoded for each lane that they touch."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from counters import batch
from counters.batch import Increments, Step
from counters.intake.idempotency import Claim
from counters.outcome import Outcome
from counters.write_id import WriteId
from sharding import topology
from sharding.lanes import Lane
from sharding.slots import slots_of
from sharding.topology import Topology

if TYPE_CHECKING:
    from counters.intake.columns import Columns  # needs pyarrow


@dataclass(frozen=True, slots=True)
class Accepted:
    """A write that is in the journal. `repeated`: an earlier request with the same idempotency key made it."""

    id: WriteId
    repeated: bool = False


@dataclass(slots=True, eq=False)
class Write:
    """One request's operations: an encoded operation per lane, routed by that version of the topology."""

    operations: dict[Lane, msgspec.Raw]
    topology_version: int
    claim: Claim | None = None
    outcome: Future[Outcome] | None = None  # set if a client waits for the result


def increments(folded: dict[str, int] | Columns, claim: Claim | None = None) -> Write:
    """Build a write that adds to many keys; `folded` has valid keys and 64-bit deltas."""
    in_force = topology.current()
    segments = _segments(folded, in_force) if isinstance(folded, dict) else folded.segments(in_force)
    return Write(segments, in_force.version, claim)


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
    return Write({in_force.lane_of(operation.key): batch.encode_segment(operation)}, in_force.version, claim, Future())
