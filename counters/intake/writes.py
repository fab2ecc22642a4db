"""A write, and the flush that takes many of them into the journal.

I1: a write's promise is resolved after `append` has returned, never before.
"""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache
from threading import Semaphore
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import structlog
from django.conf import settings
from prometheus_client import Counter, Histogram
from uuid_utils.compat import uuid7

from counters import batch
from counters.batch import Increments, Step, Token
from counters.intake import dispatch, journal, outcomes
from counters.intake.append import Moved, Payload, TokensTaken, append
from counters.intake.idempotency import Claim, Mismatch
from counters.write_id import WriteId
from runtime import event_loop
from runtime.group_commit import GroupCommit, Promise
from sharding import topology
from sharding.lanes import Lane
from sharding.slots import slots_of
from sharding.topology import Topology

if TYPE_CHECKING:
    from counters.intake.columns import Columns  # needs pyarrow

ACCEPTED = Counter("tally_writes_accepted_total", "Writes that are in the journal")
REFUSED = Counter("tally_writes_refused_total", "Writes that the journal could not take", ["reason"])
FLUSH_SIZE = Histogram("tally_flush_writes", "Writes in one flush", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096))
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A write that is in the journal. `repeated`: an earlier request with the same idempotency key made it."""

    id: WriteId
    repeated: bool = False


@dataclass(slots=True, eq=False)
class Write:
    """What one request wants: an encoded operation for each lane concerned, as that version of the topology routes them."""

    operations: dict[Lane, msgspec.Raw]
    topology_version: int
    claim: Claim | None = None
    outcome: Future[outcomes.Outcome] | None = None  # set where somebody waits for the result
    accepted: Promise[Accepted] = field(default_factory=Promise)


def increments(folded: dict[str, int] | Columns, claim: Claim | None = None) -> Write:
    """Add to many keys; `folded` has valid keys and 64-bit deltas."""
    in_force = topology.current()
    segments = _segments(folded, in_force) if isinstance(folded, dict) else folded.segments(in_force)
    return Write(segments, in_force.version, claim)


def _segments(folded: dict[str, int], in_force: Topology) -> dict[Lane, msgspec.Raw]:
    """As `Columns.segments`."""
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
    """One operation whose result is asked for."""
    in_force = topology.current()
    return Write({in_force.lane_of(operation.key): batch.encode_segment(operation)}, in_force.version, claim, Future())


def submit(write: Write) -> Promise[Accepted]:
    """Put a write on its way into the journal; the promise is kept when it is on the disk there.

    Raises, or the promise does: `journal.JournalUnavailable` (it may or may not have been taken), `idempotency.Mismatch`,
    `ShardUnavailable`.
    """
    if write.claim and (earlier := write.claim.find()):
        return Promise.kept(Accepted(earlier, repeated=True))
    if not _writing().acquire(blocking=False):
        REFUSED.labels("overload").inc()
        raise journal.JournalUnavailable("the journal is slow, and too many writes wait for it; this one was not taken")
    event_loop.act()
    _intake().put(write)
    return write.accepted


@cache
def _writing() -> Semaphore:
    """Room before the journal: while it hangs, no more is kept for it than this."""
    return Semaphore(settings.TALLY.max_writing)


@cache
def _intake() -> GroupCommit[Write]:
    return GroupCommit(flush, name="intake", most=settings.TALLY.flush_max_writes)


def flush(writes: list[Write]) -> None:
    """Take writes into the journal as one batch for each shard, and answer each of them."""
    FLUSH_SIZE.observe(len(writes))
    _writing().release(len(writes))
    try:
        while writes:
            writes = _flush_distinct(writes)
    except Exception as error:
        if not isinstance(error, journal.JournalUnavailable):
            log.exception("flush_failed", writes=len(writes))
        for write in writes:
            if not write.accepted.done:
                REFUSED.labels("journal").inc()
                write.accepted.fail(error)


def _flush_distinct(writes: list[Write]) -> list[Write]:
    """Flush those that do not repeat an idempotency token of this flush; what is left is to be flushed after them."""
    now, later, tokens = [], [], set()
    for write in writes:
        if write.claim and write.claim.token in tokens:
            later.append(write)
            continue
        if write.claim:
            tokens.add(write.claim.token)
        now.append(write)
    while now:
        try:
            _append(now)
        except TokensTaken as taken:
            now = _answer_repeats(now, taken.records)
        else:
            break
    return later


def _append(writes: list[Write]) -> None:
    id = uuid7()
    segments: dict[Lane, list[tuple[int, msgspec.Raw]]] = defaultdict(list)
    tokens: dict[Lane, list[Token]] = defaultdict(list)
    awaited: set[Lane] = set()
    ids = []
    for index, write in enumerate(writes):
        ids.append(WriteId(id, index, tuple(write.operations)))
        for lane, operation in write.operations.items():
            segments[lane].append((index, operation))
        if write.claim:
            tokens[_home(write, write.claim)].append(Token(write.claim.token, write.claim.record(ids[index])))
        if write.outcome:
            outcomes.listener().expect(id, index, write.outcome)
            awaited.update(write.operations)
    channel = outcomes.listener().channel if awaited else None
    payloads = {
        lane: Payload(batch.encode(id, segments[lane], tokens[lane], channel if lane in awaited else None), lane in awaited)
        for lane in sorted({*segments, *tokens})
    }
    records = {token.token: token.record for group in tokens.values() for token in group}
    try:
        appended = append(id, payloads, len(writes), records, min(write.topology_version for write in writes))
    except Exception as error:
        _forget(id, writes)
        if isinstance(error, Moved):
            topology.reload()
        raise
    for write, write_id in zip(writes, ids, strict=True):
        write.accepted.resolve(Accepted(write_id))
    ACCEPTED.inc(len(writes))
    for lane in appended.unattended:
        dispatch.send_soon(lane)


def _home(write: Write, claim: Claim) -> Lane:
    """The lane that takes a write's idempotency record into the token's home shard: one that the write touches, if it does."""
    shard = claim.home_shard
    return next((lane for lane in write.operations if lane.shard == shard), Lane(shard, 0))


def _forget(id: UUID, writes: list[Write]) -> None:
    for index, write in enumerate(writes):
        if write.outcome:
            outcomes.listener().forget(id, index)


def _answer_repeats(writes: list[Write], records: dict[bytes, bytes]) -> list[Write]:
    """Answer those whose idempotency token is in use; the others are left."""
    left = []
    for write in writes:
        if write.claim is None or write.claim.token not in records:
            left.append(write)
            continue
        try:
            write.accepted.resolve(Accepted(write.claim.resolve(records[write.claim.token]), repeated=True))
        except Mismatch as error:
            write.accepted.fail(error)
    return left
