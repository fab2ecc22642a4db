"""The applier: one thread in each worker that takes a shard's journal, in order, into the shard.

Invariants, and what keeps them:

- I2, I6: see `transaction`, which is what is done between the lock and the commit.
- Order: windows of the journal are applied one after the other, each from the cursor on, and whoever applied the last transaction,
  batches are applied in the order of their positions: see `loading`, which reads the next window while this one is written.
- The cursor lives as long as the connection. After a failover the new primary may lack commits: everything still in the journal is
  looked at again, and the ledger says which are missing (I3 keeps them there until enough replicas have them).

Retries are for ever: a database or a Redis that is away costs time and a log line. `stop` ends them: the transaction in hand is
finished, what is left in the journal is for the next worker.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import cache
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import structlog
from django.conf import settings
from prometheus_client import Counter, Histogram
from redis.exceptions import RedisError

from counters import cache as counter_cache
from counters.apply import transaction
from counters.apply.completion import Completion
from counters.apply.loading import Loader, Window
from counters.apply.transaction import Committed
from counters.intake import journal, outcomes
from counters.intake.group_commit import take
from replication import flush
from sharding import databases, topology
from sharding.slots import slots_of

APPLIED = Counter("tally_batches_applied_total", "Batches whose transaction was committed", ["shard"])
DUPLICATES = Counter("tally_batches_duplicate_total", "Batches that the ledger had already", ["shard"])
REJECTED = Counter("tally_operations_rejected_total", "Operations that could not be applied", ["shard", "reason"])
SET_ASIDE = Counter("tally_batches_set_aside_total", "Batches that could not be decoded or applied, kept for an operator", ["shard"])
ROWS = Counter("tally_rows_written_total", "Counter rows written", ["shard"])
TRANSACTION = Histogram("tally_apply_seconds", "One apply transaction", ["shard"])
RETRIES = Counter("tally_apply_retries_total", "Apply transactions that failed and were tried again", ["shard"])
log = structlog.get_logger(__name__)

CURRENT = """
SELECT key, value, version FROM counter JOIN unnest(%s::text[], %s::smallint[]) AS wanted (key, slot) USING (key, slot)"""

_MOST_BATCHES = 4096
_STATEMENT_SECONDS = 15.0  # a primary that stands still for so long is taken for dead
_ALL = 2**53  # beyond every position
_REST_SECONDS = 0.05  # between transactions, at least, while nobody waits for a result
_RESTS = 5  # and so many times as long as the last one took, up to a quarter of the window
_LOOK_SECONDS = 1.0  # an idle applier looks at the journal so often: after a fault no message may come
_WAIT_AFTER_FAILURE = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds


class Stopped(Exception):
    """The worker is ending; the journal keeps what it has not applied."""


class Request(NamedTuple):
    """Somebody wants the journal applied up to a position. `again`: a batch that is there although the cursor may be behind it."""

    position: int
    done: Future[None]
    again: UUID | None = None


class Applier:
    """Applies one shard's journal; `apply_up_to` may be called from many threads."""

    def __init__(self, shard: int) -> None:
        self.shard = shard
        self._requests: SimpleQueue[Request] = SimpleQueue()
        self._waiting: list[Request] = []
        self._conn: psycopg.Connection[Any] | None = None
        self._cursor = 0
        self._window = Window(0, 0)  # in hand
        self._awake = True  # whether the journal may have more than was seen at the last look
        self._looked_at = self._told_at = 0.0  # monotonic seconds
        self._most = 64
        self._failures = 0
        self._unfit = ""
        self._loader = Loader(shard)
        self._completion = Completion(shard)
        self._stopping = False
        self.stopped = Event()
        _all.append(self)
        Thread(target=self._run, name=f"applier-{shard}", daemon=True).start()

    def apply_up_to(self, position: int, again: UUID | None = None) -> None:
        """Return when all entries of the journal up to a position are applied and committed. Raises `Stopped`."""
        request = Request(position, Future(), again)
        self._requests.put(request)
        request.done.result()

    def wake(self) -> None:
        """Apply whatever is in the journal now, without waiting for it."""
        self._requests.put(Request(_ALL, Future()))

    def stop(self) -> None:
        """Begin no transaction any more; `stopped` is set when none is open. A signal handler may call it."""
        self._stopping = True
        self.wake()

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._gather()
                self._work()
                self._failures = 0
            except (psycopg.DataError, ValueError) as error:
                self._unfit = str(error).strip()
            except (psycopg.Error, RedisError, journal.JournalUnavailable, topology.WrongShard, flush.QuorumLost) as error:
                self._recover(error)
            except Exception as error:  # a bug: the shard stands still, visibly, but nothing is lost
                log.exception("apply_broken", shard=self.shard)
                self._recover(error)
        self._refuse()

    def _gather(self) -> None:
        """Wait for requests: not at all while there is work, not long while commits wait for their replicas, and never for ever.

        After a while without any, the journal is looked at all the same: a message may be lost, and none can be sent while the broker is
        away or full.
        """
        self._waiting += self._at_hand()
        if self._waiting or self._awake or not journal.fall_asleep(self.shard, self._cursor):
            self._awake = True
            return
        try:
            timeout = settings.TALLY.completion_interval_seconds if self._completion.pending else _LOOK_SECONDS
            self._waiting.append(self._requests.get(timeout=timeout))
        except Empty:
            self._awake = time.monotonic() - self._looked_at >= _LOOK_SECONDS
            return
        self._awake = True
        self._waiting += self._at_hand()

    def _refuse(self) -> None:
        """Nobody is to wait for what this worker will not do any more."""
        self.stopped.set()
        while True:
            for request in self._waiting:
                request.done.set_exception(Stopped())
            self._waiting = [self._requests.get()]

    def _at_hand(self) -> list[Request]:
        try:
            return take(self._requests, _MOST_BATCHES, self._requests.get_nowait())
        except Empty:
            return []

    def _work(self) -> None:
        conn = self._connection()
        if self._unfit:
            self._isolate()
        for request in self._waiting:
            if request.again and not self._completion.knows(request.again):
                self._cursor = min(self._cursor, request.position - 1)
        self._window = Window(self._cursor, self._cursor)
        if self._awake and not self._stopping:
            self._looked_at = time.monotonic()
            self._window = self._loader.take(self._cursor, self._most)
            self._awake = self._window.end > self._window.after
            self._apply(conn, self._window)
            self._release(self._cursor if self._awake else _ALL)  # nothing more in the journal: whatever was asked for is done
        if self._completion.due:
            self._completion.complete(conn)
        if self._window.batches:
            self._pace(self._window)

    def _release(self, position: int) -> None:
        """Answer the requests up to a position."""
        for request in self._waiting:
            if request.position <= position:
                request.done.set_result(None)
        self._waiting = [request for request in self._waiting if request.position > position]

    def _connection(self) -> psycopg.Connection[Any]:
        if self._conn is None or self._conn.closed:
            self._cursor = 0
            self._completion.forget()
            self._conn = databases.connect(databases.primary(self.shard), timeout=_STATEMENT_SECONDS, autocommit=True)
            self._conn.execute("SET idle_in_transaction_session_timeout = '5s'; SET lock_timeout = '10s'")
            self._conn.prepare_threshold = 2
        return self._conn

    def _recover(self, error: Exception) -> None:
        RETRIES.labels(self.shard).inc()
        pause = _WAIT_AFTER_FAILURE[min(self._failures, len(_WAIT_AFTER_FAILURE) - 1)]
        self._failures += 1
        log.warning("apply_retry", shard=self.shard, error=str(error).strip(), seconds=pause)
        if self._conn is not None:
            self._conn.close()
        time.sleep(pause)
        self._awake = True  # what was pending is looked at again even if no request ever comes

    def _isolate(self) -> None:
        """Something in the window was unfit for PostgreSQL: take batches singly, and set aside the one that fails alone."""
        if self._window.entries > 1:
            log.warning("apply_singly", shard=self.shard, error=self._unfit)
            self._most = 1
        for placed in self._window.batches if self._window.entries == 1 else ():
            for entry in journal.entries(self.shard, after=placed.position - 1, limit=1):
                if entry.position == placed.position:  # else another worker has set it aside
                    self._set_aside(entry, self._unfit)
        self._unfit = ""

    def _apply(self, conn: psycopg.Connection[Any], window: Window) -> None:
        for entry, reason in window.unfit:
            self._set_aside(entry, reason)
        if window.batches:
            self._loader.read_ahead()
            done = transaction.apply(conn, self.shard, window)
            self._cursor = window.end
            self._after_commit(conn, window, done)
            self._completion.add([placed.batch for placed in window.batches], window.size, done.written)
        self._cursor = window.end

    def _pace(self, window: Window) -> None:
        """Keep a transaction under the window: fewer batches after one that took too long, more after a quick one.

        Then, if nobody waits for a result, let the next window grow: most of the cost is for each transaction and for each key, and a
        window with several times the increments has few keys more.
        """
        seconds = time.monotonic() - self._looked_at
        TRANSACTION.labels(self.shard).observe(seconds)
        if self._looked_at - self._told_at > _LOOK_SECONDS:
            journal.tell_pace(self.shard, seconds)
            self._told_at = self._looked_at
        if seconds > settings.TALLY.window_seconds:
            self._most = max(1, self._most // 2)
        elif seconds < settings.TALLY.window_seconds / 2:
            self._most = min(_MOST_BATCHES, self._most * 2)
        if window.entries < self._most and not window.awaited:
            self._loader.rest(min(max(_RESTS * seconds, _REST_SECONDS), settings.TALLY.window_seconds / 4))

    def _set_aside(self, entry: journal.Entry, reason: str) -> None:
        SET_ASIDE.labels(self.shard).inc()
        log.error("batch_set_aside", shard=self.shard, batch=entry.id.hex, reason=reason)
        journal.set_aside(self.shard, entry, reason)

    def _after_commit(self, conn: psycopg.Connection[Any], window: Window, done: Committed) -> None:
        fresh, result = done.fresh, done.plan
        APPLIED.labels(self.shard).inc(len(fresh))
        DUPLICATES.labels(self.shard).inc(len(window.batches) - len(fresh))
        ROWS.labels(self.shard).inc(len(result.added) + len(result.put))
        current = conn.execute(CURRENT, (done.stale, slots_of(done.stale))).fetchall() if done.stale else []
        told = [(key, row.value, row.version) for key, row in result.put.items()]
        counter_cache.refresh(self.shard, [*current, *told])
        channels = {placed.batch.id: placed.batch.reply_to for placed in fresh if placed.batch.reply_to}
        for channel in set(channels.values()):
            outcomes.publish(channel, [o for o in result.outcomes if channels.get(o.batch) == channel])
        for outcome in result.outcomes:
            if outcome.status == "rejected":
                REJECTED.labels(self.shard, outcome.reason).inc()


_all: list[Applier] = []


def stop() -> None:
    """Let every applier of this process finish the transaction in hand, and no more. A signal handler may call it."""
    for one in _all:
        one.stop()


def wait_until_stopped(seconds: float) -> bool:
    """After `stop`, wait until no transaction is open; whether that was so in time."""
    deadline = time.monotonic() + seconds
    return all(one.stopped.wait(max(0.0, deadline - time.monotonic())) for one in _all)


@cache
def applier(shard: int) -> Applier:
    """This process's applier for a shard."""
    return Applier(shard)
