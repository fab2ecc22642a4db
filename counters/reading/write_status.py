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
from sharding.lanes import STALE, Lane, by_shard

# The places that have a batch, whether it has this write there (rows older than the column `writes` count as having it),
# and whether the write was deferred to the stale queue. One index probe each.
IN_LEDGER = """
SELECT lane, CASE
    WHEN writes IS NULL THEN true
    WHEN %(index)s::bigint >= 8 * length(writes) THEN false
    ELSE get_bit(writes, %(index)s::bigint) = 1 END,
    coalesce(%(index)s::bigint < 8 * length(deferred) AND get_bit(deferred, %(index)s::bigint) = 1, false)
FROM ledger WHERE id = %(batch)s AND lane = ANY(%(lanes)s)"""
OUTCOMES = "SELECT key, status, value, version, reason, among FROM outcome WHERE id = %s AND index = %s ORDER BY key"
FORWARDED = "SELECT shard, to_lane, forwarded_id FROM forwarded WHERE id = %s AND lane = ANY(%s)"

Status = Literal["queued", "excess", "stale", "applied", "rejected"]
Waiting = Literal["queued", "excess", "stale"]
_WAITING: tuple[Waiting, ...] = ("queued", "excess", "stale")  # of several, the first is the status of the write


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """`outcomes` has an entry for each operation whose result was requested, and each that was rejected, by key.

    `status` is "rejected" if the whole write was, and "applied" if any of it was counted. If some of it waits in a spill
    queue, `status` names that queue.
    """

    id: WriteId
    status: Status
    outcomes: list[Outcome]


class _Part(NamedTuple):
    """The status of a write in some lanes of a shard. `known`: their batch has this write."""

    status: Waiting | Literal["applied"]
    outcomes: list[Outcome]
    known: bool = True


class _Records(NamedTuple):
    """A shard's records of a batch; `waiting`: what it has not applied. `known` as in `_Part`, `forwarded` says where
    operations went."""

    waiting: set[Waiting]
    known: bool
    outcomes: list[Outcome]
    forwarded: list[tuple[Lane, UUID]]


def find(write: WriteId) -> WriteStatus | None:
    """The status of a write; None if no shard and no journal knows it. Raises `ShardUnavailable`, `JournalUnreadable`.

    While its batch is queued, a write that is not in the batch counts as queued, too.
    """
    outcomes: list[Outcome] = []
    waiting = set()
    for shard, lanes in by_shard(write.lanes).items():
        part = _part(shard, lanes, write.batch, write.index)
        if part is None or not part.known:
            return None
        waiting.add(part.status)
        outcomes += part.outcomes
    # For each lane whose operations were all rejected, these fractions add up to 1.
    rejected = sum(Fraction(1, outcome.among) for outcome in outcomes if outcome.status == "rejected")
    done: Status = "rejected" if rejected == len(write.lanes) else "applied"
    status = next((one for one in _WAITING if one in waiting), done)
    return WriteStatus(write, status, sorted(outcomes, key=attrgetter("key")))


def _part(shard: int, lanes: list[Lane], batch: UUID, index: int) -> _Part | None:
    # The journal first: an entry leaves it only after the ledger has it, so no entry is missed between the two.
    places = _places(lanes)
    try:
        found_at = journal.positions(places, batch)
    except RedisError as error:
        raise journal.JournalUnreadable(f"the journal did not answer: {error}") from error
    in_journal = {lane for lane, position in zip(places, found_at, strict=True) if position is not None}
    try:
        found, _ = reads.ask(shard, lambda conn: _records(conn, lanes, batch, index), replicas=False)
    except ShardUnavailable:
        if in_journal:
            return _Part(_first({_name(lane) for lane in in_journal}), [])
        found, _ = reads.ask(shard, lambda conn: _records(conn, lanes, batch, index))
        if found.waiting:  # another replica may have it
            raise
    if found.waiting:
        return _Part(_first(found.waiting), []) if in_journal else None
    outcomes = found.outcomes
    for to, forwarded_id in found.forwarded:
        part = _part(to.shard, [to], forwarded_id, index)
        if part is None or part.status != "applied":
            return _Part("queued" if part is None else part.status, [])
        outcomes += part.outcomes
    return _Part("applied", outcomes, found.known)


def _name(lane: Lane) -> Waiting:
    """What a write is while it waits in this queue."""
    match lane.queue:
        case "excess" | "stale":
            return lane.queue
    return "queued"


def _first(waiting: set[Waiting]) -> Waiting:
    return next(one for one in _WAITING if one in waiting)


def _records(conn: psycopg.Connection[Any], lanes: list[Lane], batch: UUID, index: int) -> _Records:
    """The records of a write in these lanes of a shard."""
    waiting, known = not_applied(conn, lanes, batch, index)
    if waiting:
        return _Records(waiting, known, [], [])
    rows: Iterable[Any] = conn.execute(OUTCOMES, (batch, index))
    places = [lane.place for lane in _places(lanes)]
    forwarded = [(Lane(shard, lane), id) for shard, lane, id in conn.execute(FORWARDED, (batch, places))]
    return _Records(waiting, known, [Outcome(batch.bytes, index, *row) for row in rows], forwarded)


def _places(lanes: list[Lane]) -> list[Lane]:
    """These lanes, and where what they defer goes."""
    return [*lanes, *(lane.of(STALE) for lane in lanes if not lane.spills)]


def not_applied(conn: psycopg.Connection[Any], lanes: list[Lane], batch: UUID, index: int) -> tuple[set[Waiting], bool]:
    """Where a write waits, of these lanes of a shard: nowhere, if this server has all of it. And whether each batch that
    the server has has this write."""
    places = [lane.place for lane in _places(lanes)]
    rows = conn.execute(IN_LEDGER, {"batch": batch, "lanes": places, "index": index})
    found = {place: (has, deferred) for place, has, deferred in rows}
    waiting: set[Waiting] = set()
    for lane in lanes:
        if lane.place not in found:
            waiting.add(_name(lane))
        elif found[lane.place][1] and lane.of(STALE).place not in found:
            waiting.add("stale")
    return waiting, all(found[lane.place][0] for lane in lanes if lane.place in found)


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
