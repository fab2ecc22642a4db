"""A process's intake: groups writes into flushes and appends them to the journal, on one event loop.

I1: a write is answered after `append` has returned, never before.

A flush is first sent as its writes were built. If that would exceed a limit, nothing is appended; `admission` decides
what of each write is spilled or refused, and the flush is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import structlog
from django.conf import settings
from prometheus_client import Counter, Histogram
from uuid_utils.compat import uuid7

from counters import batch
from counters.batch import Token
from counters.intake import dispatch
from counters.intake.admission import NOTHING_SHED, Admission, Limited, Limits, Seen, Shed
from counters.intake.append import Appender, Flush, Moved, Over, Payload, TokensTaken
from counters.intake.idempotency import Claim, Mismatch
from counters.intake.journal import JournalUnavailable
from counters.intake.outcomes import Listener
from counters.intake.room import Guard, NoRoom
from counters.intake.turns import Turns
from counters.intake.writes import Accepted, Write, without
from counters.write_id import WriteId
from runtime import request_id, tracing
from runtime.group_commit import GroupCommit
from runtime.redis import LoopConnection
from runtime.request_id import Made
from sharding import topology
from sharding.lanes import Lane

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext  # an extra

ACCEPTED = Counter("tally_writes_accepted_total", "Writes that are in the journal")
ACCEPTED_INCREMENTS = Counter(
    "tally_increments_accepted_total", "Increments, and events of likes, that are in the journal"
)
REFUSED = Counter("tally_writes_refused_total", "Writes that the journal could not take", ["reason"])
SPILLED = Counter("tally_increments_spilled_total", "Increments accepted into the excess queues", ["shard"])
LIMITED = Counter("tally_keys_limited_total", "Keys of writes that were refused with 429, by the limit", ["rule"])
FLUSH_SIZE = Histogram(
    "tally_flush_writes", "Writes in one flush", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
)
_MOST_NAMED = 20  # requests of a flush that a log line names
_MOST_TRIES = 100  # of a flush that exceeds limits: each time, other processes have taken what was left
log = structlog.get_logger(__name__)


def limits() -> Limits:
    """The limits of the settings."""
    tally = settings.TALLY
    return Limits(
        tally.key_rate,
        tally.key_rate_window_seconds,
        tally.excess_increments,
        tally.backlog_increments,
        tally.backlog_bytes,
    )


@dataclass(slots=True, eq=False)
class _Submitted:
    """`write` is what is to be appended: `asked`, without `shed`. `request` and `made`: whose it is, if a request's."""

    asked: Write
    accepted: asyncio.Future[Accepted]
    write: Write
    since: float  # by the loop's clock
    request: str
    made: Made | None
    shed: Shed = NOTHING_SHED

    def answer(self, accepted: Accepted) -> None:
        if self.made is not None:
            self.made.write = str(accepted.id)
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
        self._limits = limits()
        self._loop = asyncio.get_running_loop()
        self.turns = Turns(settings.TALLY.slow_write_seconds)
        self._untold = _Untold(self._limits)
        self._spans = tracing.api()
        self._flushes: GroupCommit[_Submitted] = GroupCommit(
            self._flush, most=settings.TALLY.flush_max_writes, most_weight=settings.TALLY.flush_max_bytes
        )

    @property
    def least_counted(self) -> int:
        """How often a key must occur in a bulk write to count for its rate; 0 if rates have no limit."""
        return self._limits.least if self._limits.rate else 0

    def submit(self, write: Write) -> asyncio.Future[Accepted]:
        """Queue a write. The future resolves once the write is on the journal's disk.

        Raises `NoRoom`, or `JournalUnavailable` if too many writes wait already; this one was not taken. The future raises
        `Limited` (nor was this one), `JournalUnavailable` (the write may or may not have been taken),
        `idempotency.Mismatch`, `ShardUnavailable`.
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
        request, made = request_id.CURRENT.get(), request_id.MADE.get()
        submitted = _Submitted(write, self._loop.create_future(), write, self._loop.time(), request, made)
        self._flushes.put(submitted, write.size)
        return submitted.accepted

    async def drain(self) -> None:
        """Wait until every submitted write is answered."""
        await self._flushes.drain()

    async def _flush(self, writes: list[_Submitted]) -> None:
        """Append writes to the journal as one batch per lane, and answer each write."""
        FLUSH_SIZE.observe(len(writes))
        small = next((one for one in writes if not one.asked.size), None)  # the oldest of the flush
        try:
            while writes:
                writes = await self._flush_distinct(writes)
        except Exception as error:
            if not isinstance(error, JournalUnavailable):
                log.exception("flush_failed", writes=len(writes), requests=_requests(writes))
            for one in writes:
                if not one.accepted.done():
                    REFUSED.labels("journal").inc()
                    one.fail(error)
        if small is not None:
            self.turns.note(self._loop.time() - small.since)

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
        """Append writes, without what limits take out of them. Nothing of those that are left with nothing is appended."""
        seen: Seen | None = None
        for _ in range(_MOST_TRIES):
            try:
                left = [one for one in writes if one.write.operations]
                if self._spans is None:
                    await self._append_once(uuid7(), left, watched=seen)
                else:
                    with self._spans.flush(_spans_of(left), {"tally.writes": len(left)}, (TokensTaken, Over)) as id:
                        await self._append_once(id, left, watched=seen)
            except Over as over:
                seen = over.seen.after(seen) if seen else over.seen
                self._shed(writes, seen)
            else:
                break
        else:
            raise JournalUnavailable("the limits change too quickly; this write was not taken")
        for one in writes:
            _count(one)
            if not one.write.operations:
                one.fail(Limited(one.shed.refused))

    def _shed(self, writes: list[_Submitted], seen: Seen) -> None:
        """Decide again what of each write is appended."""
        admission = Admission(self._limits, seen, self._untold.by_key)
        lane_of = topology.current().lane_of
        for one in writes:
            split = admission.split(one.asked, lane_of)
            one.write, one.shed = without(one.asked, split) if split.changes else (one.asked, NOTHING_SHED)

    async def _append_once(self, id: UUID, writes: list[_Submitted], watched: Seen | None) -> None:
        """Append writes as they are. Raises `Over`. `watched`: keys whose rate is looked at in any case."""
        if not writes:
            return
        counts = self._untold.counts(one.write.counts for one in writes)
        told = self._untold.told(counts)
        flush, ids = self._encoded(id, writes, {**dict.fromkeys(watched.used, 0), **told} if watched else told)
        try:
            appended = await self._appender.append(flush)
        except BaseException as error:
            self._forget(id, writes)
            if isinstance(error, Moved):
                await asyncio.to_thread(topology.reload)
            raise
        for one, write_id in zip(writes, ids, strict=True):
            one.answer(Accepted(write_id, one.shed, version=appended.position + write_id.index))
        ACCEPTED.inc(len(writes))
        ACCEPTED_INCREMENTS.inc(sum(sum(one.write.increments.values()) for one in writes))
        self._untold.keep(counts, told)
        if log.is_enabled_for(logging.DEBUG):
            log.debug("batch_appended", batch=id.hex, writes=len(writes), requests=_requests(writes))
        for lane in appended.unattended:
            dispatch.send_soon(lane)

    def _encoded(self, id: UUID, writes: list[_Submitted], counted: Mapping[str, int]) -> tuple[Flush, list[WriteId]]:
        """The batches of a flush, and the id of each write. `counted`: increments of keys to tell of."""
        segments: dict[Lane, list[tuple[int, msgspec.Raw]]] = defaultdict(list)
        tokens: dict[Lane, list[Token]] = defaultdict(list)
        increments: dict[Lane, int] = defaultdict(int)
        awaited: set[Lane] = set()
        ids = []
        for index, one in enumerate(writes):
            write = one.write
            ids.append(WriteId(id, index, tuple(write.operations)))
            for lane, operation in write.operations.items():
                segments[lane].append((index, operation))
                increments[lane] += write.increments[lane]
            if write.claim:
                record = write.claim.record(ids[index], one.shed)
                tokens[_home(write, write.claim)].append(Token(write.claim.token, record))
            if write.outcome:
                self.listener.expect(id, index, write.outcome)
                awaited.update(write.operations)
        channel = self.listener.channel if awaited else None
        payloads = {
            lane: Payload(
                batch.encode(id, segments[lane], tokens[lane], channel if lane in awaited else None),
                lane in awaited,
                increments[lane],
            )
            for lane in sorted({*segments, *tokens})
        }
        records = {token.token: token.record for group in tokens.values() for token in group}
        routed_by = min(one.write.topology_version for one in writes)
        return Flush(id, payloads, len(writes), records, routed_by, counted, self._limits), ids

    def _forget(self, id: UUID, writes: list[_Submitted]) -> None:
        for index, one in enumerate(writes):
            if one.write.outcome:
                self.listener.forget(id, index)


class _Untold:
    """Increments by key that this process has appended and not told the others of (`Limits.quantum`). It forgets them with
    the window."""

    def __init__(self, limits: Limits) -> None:
        self.by_key: dict[str, int] = {}
        self._limits = limits
        self._ends = 0.0  # monotonic seconds

    def counts(self, writes: Iterable[Mapping[str, int]]) -> dict[str, int]:
        """The sum of what writes count."""
        sums: dict[str, int] = {}
        if self._limits.rate:
            for counts in writes:
                for key, count in counts.items():
                    sums[key] = sums.get(key, 0) + count
        return sums

    def told(self, counts: Mapping[str, int]) -> dict[str, int]:
        """The keys that have enough by now, with all of it."""
        now = time.monotonic()
        if now >= self._ends:
            self.by_key.clear()
            self._ends = now + self._limits.window
        least, untold = self._limits.quantum, self.by_key.get
        return {key: total for key, count in counts.items() if (total := untold(key, 0) + count) >= least}

    def keep(self, counts: Mapping[str, int], told: Mapping[str, int]) -> None:
        """The flush is appended."""
        for key, count in counts.items():
            if key in told:
                self.by_key.pop(key, None)
            else:
                self.by_key[key] = self.by_key.get(key, 0) + count


def _requests(writes: list[_Submitted]) -> list[str]:
    """The ids of the first requests of a flush."""
    return [one.request for one in writes[:_MOST_NAMED]]


def _spans_of(writes: list[_Submitted]) -> list[SpanContext]:
    """The spans of the requests of a flush, of those that have one."""
    return [one.made.span for one in writes if one.made is not None and one.made.span is not None]


def _count(one: _Submitted) -> None:
    """Count in the metrics what was spilled and refused."""
    for lane, increments in one.write.increments.items():
        if lane.spills:
            SPILLED.labels(lane.shard).inc(increments)
    for rule, keys in one.shed.refused.items():
        LIMITED.labels(rule).inc(len(keys))


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
            one.answer(Accepted(*claim.resolve(records[claim.token]), repeated=True))
        except Mismatch as error:
            one.fail(error)
    return left
