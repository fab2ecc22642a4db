"""The applier: one thread in each worker that takes a shard's journal, in order, into the shard.

Invariants, and what keeps them:

- I2: ledger rows and counter changes are one transaction; only batches whose ledger row is new are applied.
- I6: the topology is read in the same transaction; operations on slots that another shard owns are forwarded to its journal.
- Order: the journal is read after the shard's advisory lock was taken, from a cursor on. Whatever was appended before is seen, whoever
  applied the last transaction, so batches are applied in the order of their positions.
- The cursor lives as long as the connection. After a failover the new primary may lack commits: everything still in the journal is
  looked at again, and the ledger says which are missing (I3 keeps them there until enough replicas have them).

Retries are for ever: a database or a Redis that is away costs time and a log line.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import structlog
from django.conf import settings
from prometheus_client import Counter, Histogram
from redis.exceptions import RedisError

from counters import cache as counter_cache
from counters.apply import forwarding
from counters.apply.completion import Completion
from counters.apply.plan import Placed, Plan, Row, keys_to_read, overflowing, plan
from counters.intake import batch, journal, outcomes
from counters.intake.group_commit import take
from replication import flush
from sharding import databases, topology
from sharding.slots import slot_of

APPLIED = Counter("tally_batches_applied_total", "Batches whose transaction was committed", ["shard"])
DUPLICATES = Counter("tally_batches_duplicate_total", "Batches that the ledger had already", ["shard"])
REJECTED = Counter("tally_operations_rejected_total", "Operations that could not be applied", ["shard", "reason"])
SET_ASIDE = Counter("tally_batches_set_aside_total", "Batches that could not be decoded or applied, kept for an operator", ["shard"])
ROWS = Counter("tally_rows_written_total", "Counter rows written", ["shard"])
TRANSACTION = Histogram("tally_apply_seconds", "One apply transaction", ["shard"])
RETRIES = Counter("tally_apply_retries_total", "Apply transactions that failed and were tried again", ["shard"])
log = structlog.get_logger(__name__)

LOCK_ID = 0x7A11  # the apply lock: one applying transaction a shard at a time
LOCK = f"SELECT pg_advisory_xact_lock(%s), {flush.MISSING}"
LEDGER = """
INSERT INTO ledger (id, position) SELECT * FROM unnest(%s::uuid[], %s::bigint[]) ON CONFLICT (id) DO NOTHING RETURNING id"""
STATE = "SELECT last_set_version, last_version FROM apply_state"
READ_ROWS = """
SELECT key, value, version, set_version FROM counter
JOIN unnest(%s::text[], %s::smallint[]) AS wanted (key, slot) USING (key, slot)"""
OUTCOMES = """
INSERT INTO outcome (id, index, key, status, value, version, reason)
SELECT * FROM unnest(%s::uuid[], %s::integer[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::text[])"""
TOKENS = "INSERT INTO idempotency (token, record) SELECT * FROM unnest(%s::bytea[], %s::bytea[])"
FORWARDED = "INSERT INTO forwarded (id, shard, forwarded_id) VALUES (%s, %s, %s)"
NEW_STATE = """
UPDATE apply_state SET last_version = greatest(last_version, %s), last_set_version = greatest(last_set_version, %s)"""
CURRENT = """
SELECT key, value, version FROM counter JOIN unnest(%s::text[], %s::smallint[]) AS wanted (key, slot) USING (key, slot)"""

_SQL = {path.stem: path.read_text() for path in (Path(__file__).parent / "sql").glob("*.sql")}
_MOST_BATCHES = 4096
_STATEMENT_SECONDS = 15.0  # a primary that stands still for so long is taken for dead
_ALL = 2**53  # beyond every position
_LOOK_SECONDS = 1.0  # an idle applier looks at the journal so often: after a fault no message may come
_WAIT_AFTER_FAILURE = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds


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
        self._most = 64
        self._failures = 0
        self._unfit = ""
        self._completion = Completion(shard)
        Thread(target=self._run, name=f"applier-{shard}", daemon=True).start()

    def apply_up_to(self, position: int, again: UUID | None = None) -> None:
        """Return when all entries of the journal up to a position are applied and committed."""
        request = Request(position, Future(), again)
        self._requests.put(request)
        request.done.result()

    def wake(self) -> None:
        """Apply whatever is in the journal now, without waiting for it."""
        self._requests.put(Request(_ALL, Future()))

    def _run(self) -> None:
        while True:
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

    def _gather(self) -> None:
        """Wait for requests: not at all while some are open, not long while commits wait for their replicas, and never for ever.

        After a while without any, the journal is looked at all the same: when Redis is full, no message can be sent.
        """
        if self._waiting:
            self._waiting += self._at_hand()
            return
        try:
            timeout = settings.TALLY.completion_interval_seconds if self._completion.pending else _LOOK_SECONDS
            first = self._requests.get(timeout=timeout)
        except Empty:
            if not self._completion.pending:
                self._waiting.append(Request(_ALL, Future()))
            return
        self._waiting += take(self._requests, _MOST_BATCHES, first)

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
        self._release(self._cursor)
        while self._waiting:
            more = self._apply_window(conn)
            self._release(self._cursor if more else _ALL)  # nothing more in the journal: whatever was asked for is done
        self._completion.complete(conn)

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
        return self._conn

    def _recover(self, error: Exception) -> None:
        RETRIES.labels(self.shard).inc()
        pause = _WAIT_AFTER_FAILURE[min(self._failures, len(_WAIT_AFTER_FAILURE) - 1)]
        self._failures += 1
        log.warning("apply_retry", shard=self.shard, error=str(error).strip(), seconds=pause)
        if self._conn is not None:
            self._conn.close()
        time.sleep(pause)
        if not self._waiting:
            self.wake()  # what was pending is looked at again even if no request ever comes

    def _isolate(self) -> None:
        """Something in the window was unfit for PostgreSQL: take batches singly, and set aside the one that fails alone."""
        if self._most > 1:
            log.warning("apply_singly", shard=self.shard, error=self._unfit)
            self._most = 1
        else:
            for entry in journal.entries(self.shard, after=self._cursor, limit=1):
                self._set_aside(entry, self._unfit)
        self._unfit = ""

    def _apply_window(self, conn: psycopg.Connection[Any]) -> bool:
        """One transaction over the next batches of the journal; whether there were any."""
        started = time.monotonic()
        with conn.transaction():
            _, missing = conn.execute(LOCK, (LOCK_ID,)).fetchall()[0]
            entries = journal.entries(self.shard, after=self._cursor, limit=self._most)
            if not entries:
                return False
            if missing:
                raise flush.QuorumLost(f"{missing} more replicas have to follow before anything is committed")
            window, size = self._load(entries)
            fresh = self._new_in_ledger(conn, window)
            result, written = self._change(conn, fresh)
        self._cursor = entries[-1].position
        self._after_commit(conn, window, fresh, result, written)
        self._completion.add(conn, [placed.batch for placed in window], size)
        self._pace(time.monotonic() - started)
        return True

    def _pace(self, seconds: float) -> None:
        """Keep a transaction under the window: fewer batches after one that took too long, more after a quick one."""
        TRANSACTION.labels(self.shard).observe(seconds)
        journal.tell_pace(self.shard, seconds)
        if seconds > settings.TALLY.window_seconds:
            self._most = max(1, self._most // 2)
        elif seconds < settings.TALLY.window_seconds / 2:
            self._most = min(_MOST_BATCHES, self._most * 2)

    def _load(self, entries: list[journal.Entry]) -> tuple[list[Placed], int]:
        """Batches of entries, and their size in bytes; what cannot be decoded is set aside."""
        window, size = [], 0
        for entry, data in zip(entries, journal.payloads(self.shard, [entry.id for entry in entries]), strict=True):
            if data is None:  # another worker has just completed it
                continue
            try:
                window.append(Placed(entry.position, batch.decode(data)))
                size += len(data)
            except batch.BadBatch as error:
                self._set_aside(entry, str(error))
        return window, size

    def _set_aside(self, entry: journal.Entry, reason: str) -> None:
        SET_ASIDE.labels(self.shard).inc()
        log.error("batch_set_aside", shard=self.shard, batch=entry.id.hex, reason=reason)
        journal.set_aside(self.shard, entry, reason)

    def _new_in_ledger(self, conn: psycopg.Connection[Any], window: list[Placed]) -> list[Placed]:
        ids = [placed.batch.uuid for placed in window]
        new = {row[0] for row in conn.execute(LEDGER, (ids, [placed.position for placed in window]))}
        DUPLICATES.labels(self.shard).inc(len(ids) - len(new))
        return [placed for placed in window if placed.batch.uuid in new]

    def _change(self, conn: psycopg.Connection[Any], fresh: list[Placed]) -> tuple[Plan, list[tuple[str, int, int]]]:
        if not fresh:
            return Plan(), []
        owned = topology.read(conn, self.shard)
        if owned is not None:
            fresh = self._forward(conn, fresh, owned)
        read = keys_to_read(fresh, *conn.execute(STATE).fetchall()[0])
        while True:
            result = plan(fresh, self._rows(conn, read), read)
            if more := overflowing(result.added):
                read |= more
                continue
            try:
                with conn.transaction():
                    written = self._write(conn, result)
            except psycopg.errors.NumericValueOutOfRange:
                if not (more := self._overflowing(conn, result)):
                    raise
                read |= more
            else:
                break
        self._keep_books(conn, fresh, result)
        return result, written

    def _forward(self, conn: psycopg.Connection[Any], fresh: list[Placed], owned: topology.Topology) -> list[Placed]:
        kept, sent = forwarding.forward(self.shard, fresh, owned)
        for id, shard, forwarded_id in sent:
            conn.execute(FORWARDED, (id, shard, forwarded_id))
        return kept

    def _rows(self, conn: psycopg.Connection[Any], keys: set[str]) -> dict[str, Row]:
        if not keys:
            return {}
        wanted = sorted(keys)
        return {key: Row(*row) for key, *row in conn.execute(READ_ROWS, (wanted, [slot_of(key) for key in wanted]))}

    def _write(self, conn: psycopg.Connection[Any], result: Plan) -> list[tuple[str, int, int]]:
        written: list[tuple[str, int, int]] = []
        if result.added:
            keys = sorted(result.added)
            deltas, versions = zip(*(result.added[key] for key in keys), strict=True)
            arguments = {"keys": keys, "slots": [slot_of(key) for key in keys], "deltas": list(deltas), "versions": list(versions)}
            written += conn.execute(_SQL["add"], arguments).fetchall()
        if result.put:
            keys = sorted(result.put)
            rows = [result.put[key] for key in keys]
            arguments = {
                "keys": keys,
                "slots": [slot_of(key) for key in keys],
                "values": [row.value for row in rows],
                "versions": [row.version for row in rows],
                "set_versions": [row.set_version for row in rows],
            }
            written += conn.execute(_SQL["put"], arguments).fetchall()
        return written

    def _overflowing(self, conn: psycopg.Connection[Any], result: Plan) -> set[str]:
        keys = sorted(result.added)
        arguments = {"keys": keys, "slots": [slot_of(key) for key in keys], "deltas": [result.added[key][0] for key in keys]}
        return {row[0] for row in conn.execute(_SQL["overflowing"], arguments)}

    def _keep_books(self, conn: psycopg.Connection[Any], fresh: list[Placed], result: Plan) -> None:
        if result.outcomes:
            rows = [(UUID(bytes=o.batch), o.index, o.key, o.status, o.value, o.version, o.reason) for o in result.outcomes]
            conn.execute(OUTCOMES, [list(column) for column in zip(*rows, strict=True)])
        tokens = [token for placed in fresh for token in placed.batch.tokens]
        if tokens:
            conn.execute(TOKENS, ([token.token for token in tokens], [token.record for token in tokens]))
        conn.execute(NEW_STATE, (result.last_version, result.last_set_version))

    def _after_commit(
        self, conn: psycopg.Connection[Any], window: list[Placed], fresh: list[Placed], result: Plan, written: list[tuple[str, int, int]]
    ) -> None:
        APPLIED.labels(self.shard).inc(len(fresh))
        ROWS.labels(self.shard).inc(len(written))
        counter_cache.refresh(written + self._left_by_others(conn, window, fresh))
        channels = {placed.batch.id: placed.batch.reply_to for placed in fresh if placed.batch.reply_to}
        for channel in set(channels.values()):
            outcomes.publish(channel, [o for o in result.outcomes if channels.get(o.batch) == channel])
        for outcome in result.outcomes:
            if outcome.status == "rejected":
                REJECTED.labels(self.shard, outcome.reason).inc()

    def _left_by_others(self, conn: psycopg.Connection[Any], window: list[Placed], fresh: list[Placed]) -> list[tuple[str, int, int]]:
        """Values of batches that somebody else applied, who may have died before the cache had them."""
        known = {placed.batch.id for placed in fresh}
        keys = sorted({key for placed in window if placed.batch.id not in known for key in forwarding.keys_of(placed.batch)})
        return conn.execute(CURRENT, (keys, [slot_of(key) for key in keys])).fetchall() if keys else []


@cache
def applier(shard: int) -> Applier:
    """This process's applier for a shard."""
    return Applier(shard)
