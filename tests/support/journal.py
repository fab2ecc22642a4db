"""Batches put into a lane's journal past the API, and what has become of them."""

from __future__ import annotations

from uuid import UUID

from uuid_utils.compat import uuid7

from counters import batch
from counters.intake import journal
from counters.intake.append import Flush, Payload, append
from sharding import topology
from sharding.lanes import Lane
from tests.support.shards import rows


def put_in_journal(
    lane: Lane, *operations: batch.Operation, id: UUID | None = None, increments: int = 0
) -> tuple[UUID, int]:
    """One batch with a write for each operation; no task is sent, as if the message that is due had been lost.
    `increments`: how many the lane's backlog counts."""
    id = id or uuid7()
    segments = [(index, batch.encode_segment(operation)) for index, operation in enumerate(operations)]
    return id, append_bytes(lane, id, batch.encode(id, segments, [], None), len(operations), increments)


def append_bytes(lane: Lane, id: UUID, data: bytes, writes: int = 1, increments: int = 0) -> int:
    """Put bytes into a lane's journal; their position."""
    return append(Flush(id, {lane: Payload(data, increments=increments)}, writes, {}, None)).position


def lane_of(key: str) -> Lane:
    """The lane that a key belongs to."""
    return topology.current().lane_of(key)


def is_drained(shard: int) -> bool:
    """Whether all that a shard's journals had is applied and replicated."""
    return not journal.occupied(shard)


def in_ledger(shard: int, id: UUID) -> bool:
    return bool(rows(shard, "SELECT 1 FROM ledger WHERE id = %s", id))
