"""The status of a write, read from the journal and from the shards and lanes that its id names. Nothing else is stored
for it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent import futures
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from operator import attrgetter
from typing import Any, Literal, NamedTuple
from uuid import UUID

import psycopg
from redis.exceptions import RedisError

from counters.intake import journal
from counters.outcome import Outcome
from counters.reading import reads
from counters.write_id import WriteId
from sharding.databases import ShardUnavailable
from sharding.lanes import Lane, by_shard

# How many lanes have a batch, and in how many it has this write (rows older than the column `writes` count as having
# it). One index probe each.
IN_LEDGER = """
SELECT count(*), count(*) FILTER (WHERE CASE
    WHEN writes IS NULL THEN true
    WHEN %(index)s::bigint >= 8 * length(writes) THEN false
    ELSE get_bit(writes, %(index)s::bigint) = 1 END)
FROM ledger WHERE id = %(batch)s AND lane = ANY(%(lanes)s)"""
OUTCOMES = "SELECT key, status, value, version, reason, among FROM outcome WHERE id = %s AND index = %s ORDER BY key"
FORWARDED = "SELECT shard, to_lane, forwarded_id FROM forwarded WHERE id = %s AND lane = ANY(%s)"

Status = Literal["queued", "applied", "rejected"]


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """`outcomes` has an entry for each operation whose result was requested, and each that was rejected, by key.

    `status` is "rejected" if the whole write was, and "applied" if any of it was counted.
    """

    id: WriteId
    status: Status
    outcomes: list[Outcome]


class _Part(NamedTuple):
    """The status of a write in some lanes of a shard. `known`: their batch has this write."""

    status: Literal["queued", "applied"]
    outcomes: list[Outcome]
    known: bool = True


class _Records(NamedTuple):
    """A shard's records of a batch that it has applied; `known` as in `_Part`, `forwarded` says where operations
    went."""

    known: bool
    outcomes: list[Outcome]
    forwarded: list[tuple[Lane, UUID]]


def find(write: WriteId) -> WriteStatus | None:
    """The status of a write; None if no shard and no journal knows it. Raises `ShardUnavailable`, `JournalUnreadable`.

    While its batch is queued, a write that is not in the batch counts as queued, too.
    """
    outcomes: list[Outcome] = []
    queued = False
    for shard, lanes in by_shard(write.lanes).items():
        part = _part(shard, lanes, write.batch, write.index)
        if part is None or not part.known:
            return None
        queued |= part.status == "queued"
        outcomes += part.outcomes
    # For each lane whose operations were all rejected, these fractions add up to 1.
    rejected = sum(Fraction(1, outcome.among) for outcome in outcomes if outcome.status == "rejected")
    status: Status = "queued" if queued else "rejected" if rejected == len(write.lanes) else "applied"
    return WriteStatus(write, status, sorted(outcomes, key=attrgetter("key")))


def _part(shard: int, lanes: list[Lane], batch: UUID, index: int) -> _Part | None:
    # The journal first: an entry leaves it only after the ledger has it, so no entry is missed between the two.
    try:
        in_journal = any(position is not None for position in journal.positions(lanes, batch))
    except RedisError as error:
        raise journal.JournalUnreadable(f"the journal did not answer: {error}") from error
    numbers = [lane.number for lane in lanes]
    try:
        found, _ = reads.ask(shard, lambda conn: _records(conn, numbers, batch, index), replicas=False)
    except ShardUnavailable:
        if in_journal:
            return _Part("queued", [])
        found, _ = reads.ask(shard, lambda conn: _records(conn, numbers, batch, index))
        if found is None:  # another replica may have it
            raise
    if found is None:
        return _Part("queued", []) if in_journal else None
    outcomes = found.outcomes
    for to, forwarded_id in found.forwarded:
        part = _part(to.shard, [to], forwarded_id, index)
        if part is None or part.status == "queued":
            return _Part("queued", [])
        outcomes += part.outcomes
    return _Part("applied", outcomes, found.known)


def _records(conn: psycopg.Connection[Any], lanes: list[int], batch: UUID, index: int) -> _Records | None:
    """The records of a write, or None unless all of these lanes have applied its batch."""
    ((applied, known),) = conn.execute(IN_LEDGER, {"batch": batch, "lanes": lanes, "index": index})
    if applied < len(lanes):
        return None
    rows: Iterable[Any] = conn.execute(OUTCOMES, (batch, index))
    forwarded = [(Lane(shard, lane), id) for shard, lane, id in conn.execute(FORWARDED, (batch, lanes))]
    return _Records(known == applied, [Outcome(batch.bytes, index, *row) for row in rows], forwarded)


def wait(write: WriteId, seconds: float, outcome: Future[Outcome] | None = None) -> Outcome | None:
    """Wait for the outcome of a write of one key. Returns None if it is not known within `seconds`.

    The worker's message resolves `outcome`. The message may be lost, and a repeated request gets none, so the shard is
    polled as well, at growing intervals. An increment that no client waited for when it was accepted has no result of
    its own: once applied, its outcome has neither value nor version.
    """
    deadline = time.monotonic() + seconds
    pause = 1.0 if outcome else 0.01  # a quorum may take a while: thousands of waiting requests must not all poll
    while (left := deadline - time.monotonic()) > 0:
        done, _ = futures.wait([outcome] if outcome else [], min(pause, left))
        if outcome and done:
            return outcome.result()
        if not outcome:
            time.sleep(min(pause, left))
        with suppress(ShardUnavailable, journal.JournalUnavailable):
            found = find(write)
            if found and found.outcomes:
                return found.outcomes[0]
            if found and found.status == "applied":
                return Outcome(write.batch.bytes, write.index, "", "applied", None, None)
        pause = min(pause * 2, 1.0)
    return None
