"""What became of a write: asked of the journal and of the shards and lanes that its id names. Nothing else is kept for it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent import futures
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import psycopg
from redis.exceptions import RedisError

from counters.intake import journal
from counters.outcome import Outcome
from counters.reading import reads
from counters.write_id import WriteId
from sharding.databases import ShardUnavailable
from sharding.lanes import Lane, by_shard

IN_LEDGER = "SELECT count(*) FROM ledger WHERE id = %s AND lane = ANY(%s)"  # an index probe for each lane
OUTCOMES = "SELECT key, status, value, version, reason FROM outcome WHERE id = %s AND index = %s ORDER BY key"
FORWARDED = "SELECT shard, to_lane, forwarded_id FROM forwarded WHERE id = %s AND lane = ANY(%s)"

Status = Literal["queued", "applied", "rejected"]


@dataclass(frozen=True, slots=True)
class WriteStatus:
    """`outcomes` has an entry for each operation whose result was asked for, and each that was rejected."""

    id: WriteId
    status: Status
    outcomes: list[Outcome]


def find(write: WriteId) -> WriteStatus | None:
    """What became of a write; None if no shard and no journal knows it. Raises `ShardUnavailable`, `JournalUnavailable`."""
    outcomes: list[Outcome] = []
    queued = False
    for shard, lanes in by_shard(write.lanes).items():
        part = _part(shard, lanes, write.batch, write.index)
        if part is None:
            return None
        queued |= part[0] == "queued"
        outcomes += part[1]
    rejected = any(outcome.status == "rejected" for outcome in outcomes)
    return WriteStatus(write, "queued" if queued else "rejected" if rejected else "applied", outcomes)


def _part(shard: int, lanes: list[Lane], batch: UUID, index: int) -> tuple[Status, list[Outcome]] | None:
    # The journal first: an entry leaves it only after the ledger has it, so what is in neither was in neither.
    try:
        in_journal = any(position is not None for position in journal.positions(lanes, batch))
    except RedisError as error:
        raise journal.JournalUnavailable(f"the journal did not answer: {error}") from error
    numbers = [lane.number for lane in lanes]
    try:
        (applied, outcomes, forwarded), _ = reads.ask(shard, lambda conn: _applied(conn, numbers, batch, index), replicas=False)
    except ShardUnavailable:
        if in_journal:
            return "queued", []
        (applied, outcomes, forwarded), _ = reads.ask(shard, lambda conn: _applied(conn, numbers, batch, index))
        if not applied:  # another replica may have it
            raise
    if not applied:
        return ("queued", []) if in_journal else None
    for to, forwarded_id in forwarded:
        part = _part(to.shard, [to], forwarded_id, index)
        if part is None or part[0] == "queued":
            return "queued", []
        outcomes += part[1]
    return "applied", outcomes


def _applied(
    conn: psycopg.Connection[Any], lanes: list[int], batch: UUID, index: int
) -> tuple[bool, list[Outcome], list[tuple[Lane, UUID]]]:
    """Whether all of these lanes have applied a batch; then the outcomes of a write in it, and where they sent what is not theirs."""
    if conn.execute(IN_LEDGER, (batch, lanes)).fetchall()[0][0] < len(lanes):
        return False, [], []
    rows: Iterable[Any] = conn.execute(OUTCOMES, (batch, index))
    forwarded = [(Lane(shard, lane), id) for shard, lane, id in conn.execute(FORWARDED, (batch, lanes))]
    return True, [Outcome(batch.bytes, index, *row) for row in rows], forwarded


def wait(write: WriteId, seconds: float, outcome: Future[Outcome] | None = None) -> Outcome | None:
    """The outcome of a write of one step, or None if it is not known in time. `outcome` is resolved by the worker's message.

    The message may be lost, and a repeated request has none to expect, so the shard is asked as well, more and more seldom.
    """
    deadline = time.monotonic() + seconds
    pause = 1.0 if outcome else 0.01  # a quorum may take its time: thousands that wait must not all ask meanwhile
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
            if found and found.status == "applied":  # its result was not asked for when it was accepted, and is not kept
                return None
        pause = min(pause * 2, 1.0)
    return None
