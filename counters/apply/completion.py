"""Completion: a batch leaves the journal when enough replicas have flushed its commit.

I3 lives here. A commit is noted with the primary's WAL position right after it; the entry goes when that position is flushed by the
replicas required. Positions of one server mean nothing on another, so all is forgotten with the connection (`forget`): after a
failover the applier looks at the journal anew and notes again what it finds in the new primary's ledger.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import structlog
from django.conf import settings
from prometheus_client import Counter, Gauge

from counters.intake import journal
from counters.intake.batch import Batch
from replication import flush

COMPLETED = Counter("tally_batches_completed_total", "Batches that are safe and left the journal", ["shard"])
PENDING = Gauge("tally_batches_uncompleted", "Batches applied by this worker and not yet flushed by the replicas required", ["shard"])
log = structlog.get_logger(__name__)
_MOST = 4096


class _Commit(NamedTuple):
    written: int  # WAL position in bytes
    ids: list[UUID]
    tokens: list[bytes]


class Completion:
    """Commits of one shard that wait for their replicas. Not thread-safe: the applier's."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self._commits: deque[_Commit] = deque()

    @property
    def pending(self) -> bool:
        """Whether some commit waits."""
        return bool(self._commits)

    def forget(self) -> None:
        """The connection is gone, and with it the meaning of the positions."""
        self._commits.clear()

    def add(self, conn: psycopg.Connection[Any], batches: list[Batch]) -> None:
        """Note batches that are committed on this connection's server."""
        if batches:
            tokens = [token.token for batch in batches for token in batch.tokens]
            self._commits.append(_Commit(flush.written(conn), [batch.uuid for batch in batches], tokens))

    def complete(self, conn: psycopg.Connection[Any]) -> None:
        """Remove from the journal what is safe now. Raises `RedisError`, `psycopg.Error`; then nothing is forgotten."""
        if not self._commits:
            return
        required = settings.TALLY.replicas_required_of(self.shard)
        flushed = flush.flushed(conn, required) if required else self._commits[-1].written
        safe: list[_Commit] = []
        for commit in self._commits:
            if flushed is None or commit.written > flushed or len(safe) > _MOST:
                break
            safe.append(commit)
        if safe:
            ids = [id for commit in safe for id in commit.ids]
            journal.remove(self.shard, ids, [token for commit in safe for token in commit.tokens])
            COMPLETED.labels(self.shard).inc(len(ids))
            for _ in safe:
                self._commits.popleft()
        PENDING.labels(self.shard).set(sum(len(commit.ids) for commit in self._commits))
