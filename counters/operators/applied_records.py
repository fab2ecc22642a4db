"""A shard's records of applied batches, for people: rejected operations, forwarded batches, the ledger.

Each query is for one shard and reads a bounded number of rows. Callers merge the results of several shards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from counters.reading import reads
from counters.write_id import WriteId
from sharding.databases import ShardUnavailable
from sharding.lanes import STALE, Lane

# Newest first. Merges a range of the partial index `outcome_rejected` from each of a dozen partitions: reads `LIMIT`
# rows and a few more.
REJECTED = """
SELECT applied_at, id, index, key, value, version, reason, array(SELECT lane FROM ledger WHERE ledger.id = outcome.id ORDER BY lane)
FROM outcome
WHERE status = 'rejected' AND (applied_at, id, index, key) < (%s, %s, %s, %s)
ORDER BY applied_at DESC, id DESC, index DESC, key DESC LIMIT %s"""
# The rejected rows of one write, by the primary key. Reads and sorts at most as many rows as the write has operations.
REJECTED_OF_WRITE = """
SELECT applied_at, id, index, key, value, version, reason, array(SELECT lane FROM ledger WHERE ledger.id = outcome.id ORDER BY lane)
FROM outcome
WHERE id = %s AND index = %s AND status = 'rejected' AND (applied_at, id, index, key) < (%s, %s, %s, %s)
ORDER BY applied_at DESC, id DESC, index DESC, key DESC LIMIT %s"""
# Newest first, by the index `forwarded_newest`; same cost as REJECTED.
FORWARDED = """
SELECT applied_at, id, shard, to_lane, lane, forwarded_id FROM forwarded
WHERE (applied_at, id, shard, to_lane, lane) < (%s, %s, %s, %s, %s)
ORDER BY applied_at DESC, id DESC, shard DESC, to_lane DESC, lane DESC LIMIT %s"""
FORWARDED_BY_ID = "SELECT shard, forwarded_id FROM forwarded WHERE id = %s"  # one index probe
IN_LEDGER = "SELECT id, lane FROM ledger WHERE id = ANY(%s)"  # one index probe per id and partition

_END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC)


class RejectedPlace(NamedTuple):
    """A rejected operation's place in the order of all; the default comes before the newest."""

    at: datetime = _END_OF_TIME
    batch: UUID = UUID(int=0)
    number: int = 0  # of the write in its batch
    key: str = ""


class ForwardedPlace(NamedTuple):
    """A forwarded batch's place in the order of all; the default comes before the newest."""

    at: datetime = _END_OF_TIME
    batch: UUID = UUID(int=0)
    to: int = 0  # a shard
    to_lane: int = 0
    lane: int = 0


class Rejected(NamedTuple):
    """A rejected operation: the counter's value and version at that time, and a slug of `outcome.REASONS`."""

    place: RejectedPlace
    value: int | None
    version: int | None
    reason: str
    lanes: list[int]  # places in the ledger of the flush that the write belongs to
    shard: int

    @property
    def write(self) -> WriteId:
        """The part of the write on this shard, as an id for the look-up of writes."""
        return WriteId(self.place.batch, self.place.number, _lanes(self.shard, self.lanes))


class Forwarded(NamedTuple):
    """Operations of a batch that a lane of `shard` forwarded to another lane, under their own id."""

    place: ForwardedPlace
    forwarded_id: UUID
    shard: int

    @property
    def origin(self) -> Lane:
        """The lane that forwarded them."""
        return Lane.at(self.shard, self.place.lane)

    @property
    def to(self) -> Lane:
        """The lane that they went to."""
        return Lane(self.place.to, self.place.to_lane)


def rejected(shard: int, *, after: RejectedPlace, limit: int) -> list[Rejected]:
    """A shard's rejected operations after a place, newest first. Raises `ShardUnavailable`."""
    return _rejected(shard, REJECTED, (*after, limit))


def rejected_of(write: WriteId, shard: int, *, after: RejectedPlace, limit: int) -> list[Rejected]:
    """`rejected` for one write, including the batches it was forwarded as. Raises `ShardUnavailable`."""
    found: list[Rejected] = []
    for batch in [write.batch, *_forwarded_to(shard, write)]:
        found += _rejected(shard, REJECTED_OF_WRITE, (batch, write.index, *after, limit))
    return sorted(found, key=lambda row: row.place, reverse=True)[:limit]


def _rejected(shard: int, query: str, arguments: tuple[Any, ...]) -> list[Rejected]:
    rows, _ = reads.ask(shard, lambda conn: conn.execute(query, arguments).fetchall())
    return [Rejected(RejectedPlace(*row[:4]), row[4], row[5], row[6], row[7], shard) for row in rows]


def _forwarded_to(shard: int, write: WriteId) -> list[UUID]:
    """Ids under which other shards, among those that the write's id names, forwarded its batch to this shard. Raises
    `ShardUnavailable`."""
    found = []
    for origin in write.shards:
        if origin != shard:
            rows, _ = reads.ask(origin, lambda conn: conn.execute(FORWARDED_BY_ID, (write.batch,)).fetchall())
            found += [id for to, id in rows if to == shard]
    return found


def forwarded(shard: int, *, after: ForwardedPlace, limit: int) -> list[Forwarded]:
    """Batches that a shard forwarded, after a place, newest first. Raises `ShardUnavailable`."""
    rows, _ = reads.ask(shard, lambda conn: conn.execute(FORWARDED, (*after, limit)).fetchall())
    return [Forwarded(ForwardedPlace(*row[:5]), row[5], shard) for row in rows]


def applied(shard: int, batches: Collection[UUID]) -> set[tuple[UUID, int]] | None:
    """Pairs (batch, place of the lane) that the ledger has, of these batches, on the primary, or on a replica while the primary is
    down. None if no server answers."""

    def query(conn: psycopg.Connection[Any]) -> set[tuple[UUID, int]]:
        return {(id, lane) for id, lane in conn.execute(IN_LEDGER, (list(batches),))}

    if not batches:
        return set()
    for replicas in (False, True):
        try:
            return reads.ask(shard, query, replicas=replicas)[0]
        except ShardUnavailable:
            pass  # logged and counted by the breaker
    return None


def _lanes(shard: int, places: Iterable[int]) -> tuple[Lane, ...]:
    """The lanes of a write's id: those that its batch was appended to."""
    return tuple(sorted(lane for lane in (Lane.at(shard, place) for place in places) if lane.queue != STALE))


def write_of(batch: UUID, shards: Iterable[int]) -> WriteId | None:
    """The id of a flush's first write, with the lanes of these shards that have applied it; None if none is known to
    have."""
    lanes = [lane for shard in shards for lane in _lanes(shard, [place for _, place in applied(shard, [batch]) or ()])]
    return WriteId(batch, 0, tuple(lanes)) if lanes else None
