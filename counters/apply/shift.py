"""A shift: one run of the task `counters.apply`, which applies a lane until it is empty or about a second has passed.

Invariants, and what keeps them:

- I2, I6: see `transaction`, which covers everything from the lock to the commit.
- Order: windows of the lane's journal are applied one after the other, each from the cursor on. Batches are applied in
  the order of their positions, whichever shift committed last: see `loading`.
- The cursor is the newest version that this lane has applied, as stored in the shard (`apply_state`). It is read again
  on each connection: after a failover the new primary may lack commits and have an older one. Entries up to the cursor
  that are still in the journal are either applied and wait for replicas, or late (set aside, then retried by hand): the
  ledger shows which.
- If two shifts of a lane run at once, one waits for the other's lock, then finds the other's batches in the ledger. The
  lease makes this rare.

Increments that are older than `TALLY_STALE_SECONDS` when a shift finds them are deferred: the window is applied without
them, and completion moves their batches to the lane's stale queue. So fresh ones do not wait behind them.

A database or Redis that is down costs time and a log line. The next shift takes what is left in the journal. The shifts of
spill queues are in `spill`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence, Set
from contextlib import closing, suppress
from threading import Event
from typing import Any
from uuid import UUID, uuid4

import psycopg
import structlog
from django.conf import settings
from prometheus_client import Counter, Histogram
from redis.exceptions import RedisError

from counters.apply import effects, transaction
from counters.apply.completion import Completion, Waiting
from counters.apply.connections import Connections
from counters.apply.loading import Loader, Window
from counters.apply.pace import Pace, rest
from counters.apply.refresher import Refresher
from counters.apply.report import Report
from counters.apply.transaction import Committed
from counters.intake import journal, outcomes
from counters.intake.confirmed import Confirmed
from counters.intake.journal import Entry, Journal, JournalUnavailable
from counters.intake.lease import Lease, WakeUps
from counters.intake.set_aside import SetAsideBatches
from counters.rows import WANTED, wanted
from replication import flush
from runtime import tracing
from sharding import topology
from sharding.lanes import FRESH, Lane

SET_ASIDE = Counter(
    "tally_batches_set_aside_total", "Batches that could not be decoded or applied, kept for an operator", ["shard"]
)
TRANSACTION = Histogram("tally_apply_seconds", "One apply transaction", ["shard"])
RETRIES = Counter("tally_apply_retries_total", "Apply transactions that failed and were tried again", ["shard"])
log = structlog.get_logger(__name__)

CURRENT = f"SELECT key, value, version FROM {WANTED}"  # noqa: S608 - a constant
CURSOR = "SELECT last_version FROM apply_state WHERE lane = %s"
APPLIED_BEFORE = "SELECT id, deferred IS NOT NULL FROM ledger WHERE lane = %s AND id = ANY(%s) ORDER BY position"

_MOST_NAMED = 20  # batches of a transaction that a log line names
_FAREWELL_SECONDS = 0.05  # how long an ending shift waits for the replicas of its last commits
_WAIT_AFTER_FAILURE = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds


class LeaseLost(Exception):
    """Another shift applies the lane."""


class Shift:
    """Applies one lane, in one thread, and adds its work to a report.

    `worker` is the name shown in the lease; `stopping` ends the shift after its current transaction.
    """

    def __init__(  # noqa: PLR0913 - what a worker shares with its shifts
        self,
        lane: Lane,
        report: Report,
        *,
        worker: str,
        connections: Connections,
        refresher: Refresher,
        waiting: Waiting,
        confirmed: Confirmed,
        stopping: Event,
    ) -> None:
        self.lane = lane
        self.report = report
        self._journal, self._lease = Journal(lane), Lease(lane)
        self._holder = f"{worker}#{uuid4().hex[:12]}"
        self._connections, self._refresher, self._stopping = connections, refresher, stopping
        self._completion, self._waiting, self._confirmed = Completion(lane), waiting, confirmed
        self._window = Window(0, 0)  # the current one
        self._cursor = 0
        self._pace = Pace()
        self._failures = 0
        self._refused = ""  # why PostgreSQL refused the current window
        self._ends = self._renewed = 0.0  # monotonic seconds
        spans = tracing.worker()
        task = structlog.contextvars.get_contextvars().get("task", "")  # "" for a shift that the watch began
        self._task = spans.task({**_place(lane), "tally.task": task}) if spans else None
        self._clock = 0.0  # Unix seconds of the journal's clock when the monotonic clock was at 0

    def run(self) -> bool:
        """Apply the lane. Returns True if it has, or may have, more: then the lease has no holder, and the caller must
        send a task."""
        self._ends = time.monotonic() + settings.TALLY.shift_seconds
        try:
            self._renew()
            self._clock = journal.now() / 1e6 - time.monotonic()
            while True:
                with suppress(_Failed):
                    return self._attempt()
                if self._over:
                    return self._handed_over()
        except LeaseLost:
            return False
        except (RedisError, JournalUnavailable) as error:
            log.warning("shift_ended", lane=str(self.lane), error=str(error))  # the lease expires by itself
            return False
        finally:
            if self._task is not None:
                self._task.end()

    @property
    def _over(self) -> bool:
        return self._stopping.is_set() or time.monotonic() >= self._ends

    def _attempt(self) -> bool:
        """Work on one connection. Raises `_Failed` after a pause, `LeaseLost`."""
        try:
            with self._connections.of(self.lane.shard) as conn, closing(WakeUps(self.lane)) as self._wake_ups:
                self._loader = Loader(self.lane, self._wake_ups, self._confirmed)
                more = self._work(conn)
        except LeaseLost:
            raise
        except (psycopg.DataError, ValueError) as error:
            self._refused = str(error).strip()
            raise _Failed from error
        except (psycopg.Error, RedisError, JournalUnavailable, topology.WrongShard, flush.QuorumLost) as error:
            self._recover(error)
            raise _Failed from error
        except Exception as error:  # a bug: the lane visibly stalls, but nothing is lost
            log.exception("apply_broken", lane=str(self.lane))
            self._recover(error)
            raise _Failed from error
        return more

    def _recover(self, error: Exception) -> None:
        RETRIES.labels(self.lane.shard).inc()
        pause = _WAIT_AFTER_FAILURE[min(self._failures, len(_WAIT_AFTER_FAILURE) - 1)]
        self._failures += 1
        window = self._window if self._window.end > self._cursor else Window(0, 0)  # that one is applied
        log.warning("apply_retry", **self._named(window), error=str(error).strip(), seconds=pause)
        self._stopping.wait(pause)

    def _named(self, window: Window) -> dict[str, Any]:
        """Fields of a log line on a transaction: its lane, how many batches it has, and the ids of the first."""
        batches = window.batches
        named = [placed.batch.id.hex() for placed in batches[:_MOST_NAMED]]
        return {"shard": self.lane.shard, "lane": self.lane.number, "count": len(batches), "batches": named}

    def _renew(self) -> None:
        """Take or renew the lease. Raises `LeaseLost`."""
        if not self._lease.take(self._holder):
            raise LeaseLost
        self._renewed = time.monotonic()

    def _handed_over(self) -> bool:
        return self._lease.hand_over(self._holder)

    def _work(self, conn: psycopg.Connection[Any]) -> bool:
        """Apply windows until the lane is empty or the shift is over. Returns as `run` does."""
        if self._refused:
            self._isolate()
        self._resume(conn)
        while True:
            if time.monotonic() - self._renewed > settings.TALLY.lease_seconds / 4:
                self._renew()
            began = time.monotonic()
            window = self._window = self._taken(conn)
            self._apply(conn, window)
            self._failures = 0
            if self._completion.due:
                self._completion.complete(conn)
            if window.batches:
                self._rest(window, time.monotonic() - began)
            if self._over:
                return self._end(conn)
            if not window.entries and self._lingered(conn):
                return False

    def _taken(self, conn: psycopg.Connection[Any]) -> Window:  # noqa: ARG002 - a spill queue asks the shard
        """The next window."""
        return self._loader.take(self._cursor, self._pace.most)

    def _resume(self, conn: psycopg.Connection[Any]) -> None:
        """Read the lane's cursor from this server, and adopt what earlier shifts left in the journal."""
        self._completion.forget()
        row = conn.execute(CURSOR, (self.lane.number,)).fetchone()
        self._cursor = row[0] if row else 0
        if not (left := self._journal.entries(through=self._cursor)):
            return
        applied = self._adopt(conn, left)
        if late := [entry for entry in left if entry.id not in applied]:
            self._apply_late(conn, late)

    def _adopt(self, conn: psycopg.Connection[Any], left: Sequence[Entry]) -> Set[UUID]:
        """Complete those entries that the ledger has. Returns them."""
        written = flush.written(conn)
        found: list[tuple[UUID, bool]] = conn.execute(
            APPLIED_BEFORE, (self.lane.place, [entry.id for entry in left])
        ).fetchall()
        applied = self._waiting.since(self.lane, [id for id, _ in found])
        self._completion.adopt(applied, written, {id for id, deferred in found if deferred})
        return applied.keys()

    def _apply_late(self, conn: psycopg.Connection[Any], late: Sequence[Entry]) -> None:
        """Apply late batches one by one: they are few, and any may have to be set aside again."""
        for window in self._loader.take_late(late):
            self._window = window
            self._apply(conn, window)

    def _end(self, conn: psycopg.Connection[Any]) -> bool:
        """End the shift. Returns as `run` does."""
        self._farewell(conn)
        return not self._lease.release(self._holder, self._cursor) and self._handed_over()

    def _farewell(self, conn: psycopg.Connection[Any]) -> None:
        """Complete what the replicas have in a moment."""
        until = time.monotonic() + _FAREWELL_SECONDS
        while self._completion.pending and time.monotonic() < until:
            time.sleep(settings.TALLY.completion_interval_seconds)
            self._completion.complete(conn)

    def _lingered(self, conn: psycopg.Connection[Any]) -> bool:
        """Wait for more in an empty lane. Returns whether none came and the lease was released. Raises `LeaseLost`."""
        if not self._lease.linger(self._holder, self._cursor):
            self._renew()  # there is more, unless another shift has the lease
            return False
        until = time.monotonic() + settings.TALLY.linger_seconds
        while (left := until - time.monotonic()) > 0 and not self._stopping.is_set():
            interval = settings.TALLY.completion_interval_seconds if self._completion.pending else left
            if self._wake_ups.wait(min(left, interval)):
                return False
            self._completion.complete(conn)
        return self._lease.release(self._holder, self._cursor)

    def _isolate(self) -> None:
        """After PostgreSQL refused a window: take batches one by one, and set aside one that fails alone."""
        if self._window.entries > 1:
            log.warning("apply_singly", lane=str(self.lane), error=self._refused)
            self._pace.singly()
        for placed in self._window.batches if self._window.entries == 1 else ():
            if self._journal.position(placed.batch.uuid) == placed.position:  # else another shift has set it aside
                self._set_aside(Entry(placed.batch.uuid, placed.position), self._refused)
        self._refused = ""

    def _apply(self, conn: psycopg.Connection[Any], window: Window) -> None:
        for entry, reason in window.undecodable:
            self._set_aside(entry, reason)
        if window.batches:
            window = self._window = self._without_stale(window)
            done = self._committed(conn, window)
            if log.is_enabled_for(logging.DEBUG):
                log.debug("batches_applied", **self._named(window), new=len(done.fresh))
            self._after_commit(conn, window, done)
            batches = [placed.batch for placed in window.batches]
            self._completion.add(batches, window.size, done.written, done.deferred)
        self._cursor = max(self._cursor, window.end)

    def _committed(self, conn: psycopg.Connection[Any], window: Window) -> Committed:
        """Apply and commit a window. Raises as `transaction.apply`."""
        if self._task is None:
            return transaction.apply(conn, self.lane, window)
        ids = [placed.batch.id for placed in window.batches]
        with self._task.transaction(ids, {**_place(self.lane), "tally.batches": len(ids)}) as told:
            done = transaction.apply(conn, self.lane, window)
            if told is not None:
                told.committed([placed.batch.id for placed in done.fresh], len(done.plan.added) + len(done.plan.put))
        return done

    def _without_stale(self, window: Window) -> Window:
        """The window without what is too old for the fresh queue."""
        before = self._now() - int(settings.TALLY.stale_seconds * 1e6)
        if not settings.TALLY.stale_seconds or window.batches[0].position >= before:
            return window
        window = window.deferring(before, self._journal.decided())
        self._journal.decide(window.deferred)
        return window

    def _now(self) -> int:
        """The journal's time in microseconds."""
        return int((self._clock + time.monotonic()) * 1e6)

    def _rest(self, window: Window, seconds: float) -> None:
        """Rest after a window that took `seconds`, so that the next one grows, unless a client waits for a result."""
        exemplar = {"batch": window.batches[0].batch.id.hex()}
        TRANSACTION.labels(self.lane.shard).observe(seconds, exemplar)
        self._pace.took(seconds)
        if window.entries >= self._pace.most or window.is_full or window.awaited or self._stopping.is_set():
            return
        pause = rest(window.entries, seconds, topology.lane_count(self.lane.shard))
        if time.monotonic() + pause < self._ends:
            self._loader.rest(pause, self._pace.most)
        else:  # the next shift reads what arrives meanwhile
            self._wake_ups.wait(pause)

    def _set_aside(self, entry: Entry, reason: str) -> None:
        SET_ASIDE.labels(self.lane.shard).inc()
        log.error("batch_set_aside", shard=self.lane.shard, lane=self.lane.number, batch=entry.id.hex, reason=reason)
        SetAsideBatches(self.lane).add(entry, reason)

    def _after_commit(self, conn: psycopg.Connection[Any], window: Window, done: Committed) -> None:
        """Count the work, refresh the cache, and publish awaited results."""
        self.report.add(done, len(window.batches))
        effects.committed(self.lane.shard, done.events, self._now())
        current = conn.execute(CURRENT, wanted(done.stale)).fetchall() if done.stale else []
        told = [(key, row.value, row.version) for key, row in done.plan.put.items()]
        self._refresher.refresh(self.lane.of(FRESH), [*current, *told])
        channels = {placed.batch.id: placed.batch.reply_to for placed in done.fresh if placed.batch.reply_to}
        for channel in set(channels.values()):
            outcomes.publish(channel, [o for o in done.plan.outcomes if channels.get(o.batch) == channel])


def _place(lane: Lane) -> dict[str, str | int]:
    return {"tally.shard": lane.shard, "tally.lane": lane.number, "tally.queue": lane.queue}


class _Failed(Exception):
    """An attempt has failed, and its pause is over."""
