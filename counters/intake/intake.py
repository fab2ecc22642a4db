"""A process's intake: groups writes into flushes and appends them to the journal, on one event loop.

I1: a write is answered after `append` has returned, never before.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from uuid import UUID

import msgspec
import structlog
from django.conf import settings
from prometheus_client import Counter, Histogram
from uuid_utils.compat import uuid7

from counters import batch
from counters.batch import Token
from counters.intake import dispatch
from counters.intake.append import Appender, Flush, Moved, Payload, TokensTaken
from counters.intake.idempotency import Claim, Mismatch
from counters.intake.journal import JournalUnavailable
from counters.intake.outcomes import Listener
from counters.intake.room import Guard, NoRoom
from counters.intake.writes import Accepted, Write
from counters.write_id import WriteId
from runtime.group_commit import GroupCommit
from runtime.redis import LoopConnection
from sharding import topology
from sharding.lanes import Lane

ACCEPTED = Counter("tally_writes_accepted_total", "Writes that are in the journal")
REFUSED = Counter("tally_writes_refused_total", "Writes that the journal could not take", ["reason"])
FLUSH_SIZE = Histogram(
    "tally_flush_writes", "Writes in one flush", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
)
log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Submitted:
    write: Write
    accepted: asyncio.Future[Accepted]

    def answer(self, accepted: Accepted) -> None:
        if not self.accepted.done():  # the request may have been cancelled
            self.accepted.set_result(accepted)

    def fail(self, error: Exception) -> None:
        if not self.accepted.done():
            self.accepted.set_exception(error)


class Intake:
    """Puts writes into the journal. Belongs to the event loop that it was created on."""

    def __init__(self, journal: LoopConnection, listener: Listener, guard: Guard) -> None:
        self.listener, self._guard = listener, guard
        self._appender = Appender(journal)
        self._flushes: GroupCommit[_Submitted] = GroupCommit(self._flush, most=settings.TALLY.flush_max_writes)

    def submit(self, write: Write) -> asyncio.Future[Accepted]:
        """Queue a write. The future resolves once the write is on the journal's disk.

        Raises `NoRoom`, or `JournalUnavailable` if too many writes wait already; this one was not taken. The future raises
        `JournalUnavailable` (the write may or may not have been taken), `idempotency.Mismatch`, `ShardUnavailable`.
        """
        if self._guard.refusals:
            try:
                self._guard.check(write)
            except NoRoom:
                REFUSED.labels("disk").inc()
                raise
        if self._flushes.waiting >= settings.TALLY.max_writing:
            REFUSED.labels("overload").inc()
            raise JournalUnavailable("the journal is slow, and too many writes wait for it; this one was not taken")
        submitted = _Submitted(write, asyncio.get_running_loop().create_future())
        self._flushes.put(submitted)
        return submitted.accepted

    async def drain(self) -> None:
        """Wait until every submitted write is answered."""
        await self._flushes.drain()

    async def _flush(self, writes: list[_Submitted]) -> None:
        """Append writes to the journal as one batch per lane, and answer each write."""
        FLUSH_SIZE.observe(len(writes))
        try:
            while writes:
                writes = await self._flush_distinct(writes)
        except Exception as error:
            if not isinstance(error, JournalUnavailable):
                log.exception("flush_failed", writes=len(writes))
            for one in writes:
                if not one.accepted.done():
                    REFUSED.labels("journal").inc()
                    one.fail(error)

    async def _flush_distinct(self, writes: list[_Submitted]) -> list[_Submitted]:
        """Flush the writes that do not repeat an idempotency token of this flush. Returns the others, to be flushed
        next."""
        now, later, tokens = [], [], set()
        for one in writes:
            claim = one.write.claim
            if claim and claim.token in tokens:
                later.append(one)
                continue
            if claim:
                tokens.add(claim.token)
            now.append(one)
        while now:
            try:
                await self._append(now)
            except TokensTaken as taken:
                now = _answer_repeats(now, taken.records)
            else:
                break
        return later

    async def _append(self, writes: list[_Submitted]) -> None:
        id = uuid7()
        flush, ids = self._encoded(id, writes)
        try:
            appended = await self._appender.append(flush)
        except BaseException as error:
            self._forget(id, writes)
            if isinstance(error, Moved):
                await asyncio.to_thread(topology.reload)
            raise
        for one, write_id in zip(writes, ids, strict=True):
            one.answer(Accepted(write_id))
        ACCEPTED.inc(len(writes))
        for lane in appended.unattended:
            dispatch.send_soon(lane)

    def _encoded(self, id: UUID, writes: list[_Submitted]) -> tuple[Flush, list[WriteId]]:
        """The batches of a flush, and the id of each write."""
        segments: dict[Lane, list[tuple[int, msgspec.Raw]]] = defaultdict(list)
        tokens: dict[Lane, list[Token]] = defaultdict(list)
        awaited: set[Lane] = set()
        ids = []
        for index, one in enumerate(writes):
            write = one.write
            ids.append(WriteId(id, index, tuple(write.operations)))
            for lane, operation in write.operations.items():
                segments[lane].append((index, operation))
            if write.claim:
                tokens[_home(write, write.claim)].append(Token(write.claim.token, write.claim.record(ids[index])))
            if write.outcome:
                self.listener.expect(id, index, write.outcome)
                awaited.update(write.operations)
        channel = self.listener.channel if awaited else None
        payloads = {
            lane: Payload(
                batch.encode(id, segments[lane], tokens[lane], channel if lane in awaited else None), lane in awaited
            )
            for lane in sorted({*segments, *tokens})
        }
        records = {token.token: token.record for group in tokens.values() for token in group}
        routed_by = min(one.write.topology_version for one in writes)
        return Flush(id, payloads, len(writes), records, routed_by), ids

    def _forget(self, id: UUID, writes: list[_Submitted]) -> None:
        for index, one in enumerate(writes):
            if one.write.outcome:
                self.listener.forget(id, index)


def _home(write: Write, claim: Claim) -> Lane:
    """The lane that carries a write's idempotency record to the token's home shard: one of the write's lanes if
    possible, else lane 0."""
    shard = claim.home_shard
    return next((lane for lane in write.operations if lane.shard == shard), Lane(shard, 0))


def _answer_repeats(writes: list[_Submitted], records: dict[bytes, bytes]) -> list[_Submitted]:
    """Answer the writes whose idempotency token is in use. Returns the others."""
    left = []
    for one in writes:
        claim = one.write.claim
        if claim is None or claim.token not in records:
            left.append(one)
            continue
        try:
            one.answer(Accepted(claim.resolve(records[claim.token]), repeated=True))
        except Mismatch as error:
            one.fail(error)
    return left
