"""Completion: a batch leaves the journal when enough replicas have flushed its commit.

I3 lives here. A commit is recorded with the primary's WAL position right after it. Its entries are removed once the
required replicas have flushed that position: as many as the setting says, or the shard's write quorum if that is more.
Positions of one server mean nothing on another, so the records live only as long as a shift's connection. The next
shift looks up in the ledger of its server what the journal still has, and records that again (`adopt`).

A batch that the ledger says to be deferred does not leave: it moves to the lane's stale queue, in one script. It is in
exactly one of the two journals whatever dies, and it moves only when no failover can lose what the ledger says.

While replicas are missing or lag, entries stay, up to a bound in time and in bytes. Entries over the bound are removed
although only the primary has them. The shard is *degraded* then, as shown by a gauge, an alert and a log line, until
commits are replicated again.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence, Set
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import structlog
from django.conf import settings
from prometheus_client import Counter, Gauge, Histogram

from counters import batch as codec
from counters.batch import Batch
from counters.intake import dispatch
from counters.intake.journal import Journal
from replication import flush
from sharding import topology
from sharding.lanes import STALE, Lane

COMPLETED = Counter("tally_batches_completed_total", "Batches that are safe and left the journal", ["shard"])
UNREPLICATED = Counter(
    "tally_batches_unreplicated_total", "Batches that left the journal while only the primary had them", ["shard"]
)
DEFERRED = Counter(
    "tally_batches_deferred_total", "Batches whose increments were too old and moved to the stale queue", ["shard"]
)
PENDING = Gauge(
    "tally_batches_uncompleted",
    "Batches applied and not yet flushed by the replicas required, as a shift last saw them",
    ["shard", "lane"],
)
CONVERGENCE = Histogram(
    "tally_convergence_seconds",
    "From a batch's acceptance until the replicas required have it, by the queue that it was in",
    ["shard", "queue"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600),
)
log = structlog.get_logger(__name__)
_MOST = 4096
_CHUNK = 64  # batches read at once


class _Commit(NamedTuple):
    written: int  # WAL position in bytes
    at: float  # monotonic seconds
    size: int  # bytes in the journal
    ids: list[bytes]
    tokens: list[bytes] | None  # None: unknown, to be read from the journal
    deferred: list[bytes]  # batches that move to the stale queue


class Waiting:
    """Since when the applied batches of each lane wait for replicas, as the shifts of this worker have seen it.

    Not the time in the ledger: a server's clock that is set forward would make batches leave the journal that no replica
    has (I3). A worker that starts counts anew.
    """

    def __init__(self) -> None:
        self._since: dict[Lane, dict[UUID, float]] = {}

    def since(self, lane: Lane, ids: Sequence[UUID]) -> dict[UUID, float]:
        """The monotonic time (seconds) at which each of these was first seen. They are all that the lane has."""
        known, now = self._since.get(lane, {}), time.monotonic()
        found = self._since[lane] = {id: known.get(id, now) for id in ids}
        return found


class Completion:
    """One lane's commits that wait for replicas. Not thread-safe: belongs to one shift."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._journal = Journal(lane)
        self._commits: deque[_Commit] = deque()
        self._held = 0  # bytes
        self._looked_at = 0.0  # monotonic seconds
        self._degraded: bool | None = None  # None: unknown, as an earlier shift may have set it

    @property
    def pending(self) -> bool:
        """Whether any commit waits."""
        return bool(self._commits)

    @property
    def count(self) -> int:
        """How many batches wait."""
        return sum(len(commit.ids) + len(commit.deferred) for commit in self._commits)

    def forget(self) -> None:
        """Drop all commits: their positions mean nothing on another connection."""
        self._commits.clear()
        self._held = 0

    def add(self, batches: list[Batch], size: int, written: int, deferred: Set[bytes] = frozenset()) -> None:
        """Record batches (`size` bytes in all) whose commit precedes the primary's WAL position `written`; some of them
        deferred."""
        leaving = [batch for batch in batches if batch.id not in deferred]
        # What a stale queue has applied is decoded without its tokens.
        stale = self.lane.queue == STALE
        tokens = None if stale else [token.token for batch in leaving for token in batch.tokens]
        ids = [batch.id for batch in leaving]
        self._note(_Commit(written, time.monotonic(), size, ids, tokens, list(deferred)))

    def adopt(self, applied: Mapping[UUID, float], written: int, deferred: Set[UUID] = frozenset()) -> None:
        """Record batches that earlier shifts applied, oldest first, with the monotonic time since when they wait; some of
        them deferred. Raises `RedisError`."""
        ids = list(applied)
        for id, size in zip(ids, self._journal.sizes(ids), strict=True):
            leaving, moving = ([], [id.bytes]) if id in deferred else ([id.bytes], [])
            self._note(_Commit(written, applied[id], size, leaving, None, moving))

    def _note(self, commit: _Commit) -> None:
        self._commits.append(commit)
        self._held += commit.size

    @property
    def due(self) -> bool:
        """Whether to look now: not after each commit, as the journal also writes and flushes removals."""
        return self.pending and time.monotonic() - self._looked_at >= settings.TALLY.completion_interval_seconds

    def complete(self, conn: psycopg.Connection[Any]) -> None:
        """Remove safe entries from the journal. Raises `RedisError`, `psycopg.Error`; entries not removed stay
        recorded."""
        if not self._commits:
            return
        self._looked_at = time.monotonic()
        leaving = self._safe(flush.flushed(conn, settings.TALLY.replicas_required_of(self.lane.shard)))
        over = self._over_bound(len(leaving))
        self._remove(leaving + over)
        self._tell(safe=leaving, over=over)

    def _safe(self, flushed: int | None) -> list[_Commit]:
        """The oldest commits, up to the first that is not flushed."""
        safe: list[_Commit] = []
        for commit in self._commits:
            if flushed is None or commit.written > flushed or len(safe) >= _MOST:
                break
            safe.append(commit)
        return safe

    def _over_bound(self, skip: int) -> list[_Commit]:
        """The commits after the first `skip` that have waited too long or exceed the bound in bytes."""
        over: list[_Commit] = []
        now, held = time.monotonic(), self._held - sum(commit.size for commit in islice(self._commits, skip))
        for commit in islice(self._commits, skip, skip + _MOST):
            if now - commit.at <= settings.TALLY.journal_hold_seconds and held <= self._hold_bytes:
                break
            over.append(commit)
            held -= commit.size
        return over

    def _remove(self, commits: list[_Commit]) -> None:
        if not commits:
            return
        ids = [id for commit in commits for id in commit.ids]
        tokens = [token for commit in commits for token in commit.tokens or ()]
        unknown = [id for commit in commits if commit.tokens is None for id in commit.ids]
        took = CONVERGENCE.labels(self.lane.shard, self.lane.queue)
        for age in self._journal.remove(ids, [*tokens, *self._tokens_of(unknown)]):
            took.observe(age)
        self._defer([id for commit in commits for id in commit.deferred])
        for commit in commits:
            self._commits.popleft()
            self._held -= commit.size

    def _defer(self, ids: list[bytes]) -> None:
        """Move batches to the stale queue, and have it applied some time."""
        if ids and (moved := self._journal.defer(ids)):
            DEFERRED.labels(self.lane.shard).inc(moved)
            log.warning("batches_deferred", lane=str(self.lane), batches=moved)
            dispatch.ask_for(self.lane.of(STALE))

    def _tokens_of(self, ids: list[bytes]) -> list[bytes]:
        """Idempotency tokens of those batches that the journal still has."""
        tokens: list[bytes] = []
        for start in range(0, len(ids), _CHUNK):
            for data in self._journal.payloads([UUID(bytes=id) for id in ids[start : start + _CHUNK]]):
                tokens += [token.token for token in codec.tokens_of(data)] if data is not None else []
        return tokens

    @property
    def _hold_bytes(self) -> int:
        """The lane's share of the shard's bound, in bytes."""
        return settings.TALLY.journal_hold_bytes // topology.lane_count(self.lane.shard)

    def _tell(self, *, safe: list[_Commit], over: list[_Commit]) -> None:
        shard = self.lane.shard
        COMPLETED.labels(shard).inc(sum(len(commit.ids) for commit in safe))
        UNREPLICATED.labels(shard).inc(sum(len(commit.ids) for commit in over))
        PENDING.labels(shard, str(self.lane).partition(".")[2]).set(self.count)
        if over or safe:
            self._tell_degraded(bool(over))

    def _tell_degraded(self, degraded: bool) -> None:
        if degraded != self._degraded:
            self._journal.tell_degraded(degraded)
            if degraded or self._degraded:
                log.warning(
                    "shard_degraded" if degraded else "shard_replicated", shard=self.lane.shard, lane=self.lane.number
                )
        self._degraded = degraded
