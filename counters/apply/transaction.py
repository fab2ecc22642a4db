"""One transaction of a lane: lock, ledger, plan, counters, applied records, commit.

I2 lives here: only batches whose ledger row is new are planned, and the same transaction writes their rows. I6, too:
the transaction reads the topology, and operations on another lane's slots, in this shard or another, are forwarded.

A batch's increments may be *deferred*: its ledger row says so, and they are applied from the stale queue, under that
queue's place in the ledger. A spill queue shares its lane's lock and state. It does not move the lane's cursor, but every
transaction changes the lane's row of `apply_state`.

It takes two round trips, each a libpq pipeline: first the lock, the ledger rows and all reads, then the other writes
and the COMMIT. Between them the handlers of events read (`effects`). Each statement has its own snapshot, so those after
the lock see what its last holder committed. If a statement fails, those after it are not executed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from counters.apply import arrays, effects, forwarding
from counters.apply.effects import Resolved, Versioned
from counters.apply.loading import Window, writes_of
from counters.apply.plan import Placed, Plan, Row, keys_to_read, plan
from counters.reading import cache
from counters.rows import WANTED, wanted
from replication import flush
from sharding import lanes, topology
from sharding.lanes import FRESH, Lane
from sharding.slots import slots_of
from sharding.topology import Topology

LOCK = f"SELECT pg_advisory_xact_lock(%s, %s), {flush.MISSING}"
LEDGER = """
INSERT INTO ledger (id, lane, position, writes, deferred)
SELECT id, %s, position, writes, deferred
FROM unnest(%s::uuid[], %s::bigint[], %s::bytea[], %s::bytea[]) AS batch (id, position, writes, deferred)
ON CONFLICT (id, lane) DO NOTHING RETURNING id"""
DEFERRED = "SELECT id FROM ledger WHERE lane = %s AND id = ANY(%s) AND deferred IS NOT NULL"
# A lane that is no longer in force has no row: then the newest of all lanes counts.
STATE = """
SELECT coalesce(max(last_set_version) FILTER (WHERE lane = %(lane)s), max(last_set_version)),
    coalesce(max(last_version) FILTER (WHERE lane = %(lane)s), max(last_version)),
    coalesce(max(spilled) FILTER (WHERE lane = %(lane)s), max(spilled)),
    max(greatest(last_version, spilled_version)) FILTER (WHERE lane = %(lane)s) FROM apply_state"""
READ_ROWS = f"SELECT key, value, version, set_version FROM {WANTED}"  # noqa: S608 - a constant
OUTCOMES = """
INSERT INTO outcome (id, index, key, status, value, version, reason, among)
SELECT * FROM unnest(
    %s::uuid[], %s::integer[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::text[], %s::integer[])"""
TOKENS = "INSERT INTO idempotency (token, record) SELECT * FROM unnest(%s::bytea[], %s::bytea[])"
FORWARDED = "INSERT INTO forwarded (id, lane, shard, to_lane, forwarded_id) VALUES (%s, %s, %s, %s, %s)"
SIZE = "SELECT sum(pg_relation_size(inhrelid))::bigint FROM pg_inherits WHERE inhparent = 'counter'::regclass"
DENSE = """
SELECT set_config('enable_nestloop', 'off', true), set_config('enable_mergejoin', 'off', true), set_config('work_mem', '64MB', true),
    set_config('jit', 'off', true)"""
NEW_STATE = """
UPDATE apply_state SET last_version = greatest(last_version, %s), last_set_version = greatest(last_set_version, %s) WHERE lane = %s"""
SPILLED_STATE = """
UPDATE apply_state SET spilled = spilled + %s, spilled_version = greatest(spilled_version, %s) WHERE lane = %s"""

_DENSE_KEYS = 1000
_DENSE_BYTES = 1000  # bytes of the lane's part of the table per key: scanned in the time of one index probe
_SQL = {path.stem: path.read_text() for path in (Path(__file__).parent / "sql").glob("*.sql")}


@dataclass(frozen=True, slots=True)
class Committed:
    """What a transaction did. `stale`: keys to refresh in the cache; `written`: WAL position after the commit, in bytes;
    `deferred`: batches of the window that the ledger says to be deferred; `events`: those applied, by kind."""

    fresh: list[Placed]
    plan: Plan
    stale: list[str]
    written: int
    deferred: Set[bytes]
    events: Mapping[str, Sequence[Versioned]]


class _State(NamedTuple):
    """The lane's newest applied versions, of sets and of all writes, and how many spilled batches it has applied. `newest`:
    the newest version applied from any of its queues; None for a lane that is no longer in force."""

    last_set_version: int
    last_version: int
    spilled: int
    newest: int | None


class _Found(NamedTuple):
    """What was read from the shard under the lock; `rows` are those of the window's `reads`. `forwarded`: the batches are
    without other lanes' operations."""

    fresh: list[Placed]
    topology: Topology | None
    state: _State
    rows: dict[str, Row]
    forwarded: bool = False


class _Change(NamedTuple):
    """What the new batches of this lane do: `plan` for the batches of `resolved`, which are `fresh` without events."""

    fresh: list[Placed]
    resolved: Resolved
    plan: Plan
    additions: _Additions


class _Additions:
    """A plan's additions, keys sorted."""

    def __init__(self, result: Plan) -> None:
        self._plan = result
        self.keys = sorted(result.added)
        self.slots = slots_of(self.keys)

    def arguments(self) -> dict[str, str]:
        return {
            "keys": arrays.texts(self.keys),
            "slots": arrays.integers(self.slots),
            "deltas": arrays.integers(map(self._plan.added.__getitem__, self.keys)),
            "versions": arrays.integers(map(self._plan.versions.__getitem__, self.keys)),
        }


def apply(conn: psycopg.Connection[Any], lane: Lane, window: Window) -> Committed:
    """Apply and commit the new batches of a window; `conn` is in autocommit mode.

    Raises `QuorumLost`, `WrongShard`, `JournalUnavailable` if something could not be forwarded, `psycopg.Error`. Then
    nothing is committed, except possibly if the connection was lost.
    """
    try:
        return _apply(conn, lane, window, overflows=False)
    except psycopg.errors.NumericValueOutOfRange:  # rare: repeat everything, and check the rows
        return _apply(conn, lane, window, overflows=True)


def _apply(conn: psycopg.Connection[Any], lane: Lane, window: Window, *, overflows: bool) -> Committed:
    try:
        found = _ask(conn, lane, window, topology.ask(lane.shard))
        change = _change(conn, lane, window, found, overflows=overflows)
        fresh, result = change.fresh, change.plan
        keys = [
            key for key in (*result.keys, *_keys_left_by_others(window.batches, found.fresh)) if key not in result.put
        ]
        stale = cache.announce(lane.of(FRESH), _moment(lane, found.state, fresh, result), keys)
        lane_count = found.topology.lane_count if found.topology else 1
        written = _write(conn, lane, lane_count, change)
        return Committed(fresh, result, stale, written, _deferred(conn, lane, window, fresh), change.resolved.events)
    except BaseException:
        if not conn.closed:
            conn.rollback()
        raise


def _moment(lane: Lane, state: _State, fresh: list[Placed], result: Plan) -> int:
    """A number that rises with each transaction that changes the lane's counters (`reads.GET` reads it): spilled batches
    do not raise the version."""
    if lane.spills:
        return state.last_version + state.spilled + len(fresh)
    return max(state.last_version, result.last_version) + state.spilled


def _deferred(conn: psycopg.Connection[Any], lane: Lane, window: Window, fresh: list[Placed]) -> set[bytes]:
    """Batches of the window that are deferred. The ledger decides: another shift may have applied what this one would have
    deferred, or the other way round."""
    if lane.spills:
        return set()
    new = {placed.batch.id for placed in fresh}
    others = [placed.batch.uuid for placed in window.batches if placed.batch.id not in new]
    rows = conn.execute(DEFERRED, (lane.place, others)).fetchall() if others else []
    return {id.bytes for (id,) in rows} | (new & window.deferred.keys())


def _ask(conn: psycopg.Connection[Any], lane: Lane, window: Window, question: topology.Question) -> _Found:
    """Begin, take the lock, insert the batches into the ledger, and read what is needed from the shard."""
    ids = "{" + ",".join([placed.batch.id.hex() for placed in window.batches]) + "}"
    positions = arrays.integers(placed.position for placed in window.batches)
    deferred = [window.deferred.get(placed.batch.id, 0) for placed in window.batches]
    written = (writes_of(placed.batch) | bits for placed, bits in zip(window.batches, deferred, strict=True))
    writes, left = arrays.byteas(map(_bits, written)), arrays.byteas(_bits(bits) if bits else None for bits in deferred)
    reads = sorted(window.reads)
    with conn.pipeline() as pipeline:
        conn.execute("BEGIN")
        locked = conn.execute(LOCK, (lanes.LOCK_ID, lane.number))
        entered = conn.execute(LEDGER, (lane.place, ids, positions, writes, left))
        owners = conn.execute(*question.query)
        state = conn.execute(STATE, {"lane": lane.number})
        rows = conn.execute(READ_ROWS, wanted(reads)) if reads else ()
        pipeline.sync()
    if missing := locked.fetchall()[0][1]:
        raise flush.QuorumLost(f"{missing} more replicas have to follow before anything is committed")
    fresh = window.batches
    if entered.rowcount < len(fresh):
        new = {row[0].bytes for row in entered}
        fresh = [placed for placed in window.batches if placed.batch.id in new]
    return _Found(
        fresh, question.answer(owners.fetchone()), _State(*state.fetchall()[0]), {key: Row(*row) for key, *row in rows}
    )


def _bits(writes: int) -> bytes:
    """Bits in the order of `get_bit`."""
    return writes.to_bytes((writes.bit_length() + 7) // 8, "little")


def _change(conn: psycopg.Connection[Any], lane: Lane, window: Window, found: _Found, *, overflows: bool) -> _Change:
    """Forward other lanes' operations, and plan the rest."""
    change = _planned(conn, window, found)
    slots = (*change.additions.slots, *slots_of((*change.plan.put, *change.plan.read)), *change.resolved.slots)
    if found.topology and not found.topology.owns(lane, slots):
        own = lane.of(FRESH)
        keys = {key for placed in found.fresh for key in placed.batch.keys}
        foreign = {key for key in keys if found.topology.lane_of(key) != own}
        found = found._replace(fresh=_forward(conn, lane, found.fresh, found.topology, foreign), forwarded=True)
        change = _planned(conn, window, found)
    if overflows:
        more = {row[0] for row in conn.execute(_SQL["overflowing"], change.additions.arguments())}
        change = _planned(conn, window, found, more)
    return change


def _planned(conn: psycopg.Connection[Any], window: Window, found: _Found, more: Set[str] = frozenset()) -> _Change:
    """Plan the new batches. `more` are keys that must be read."""
    whole = len(found.fresh) == len(window.batches) and not found.forwarded
    ready = window.plan
    resolved = effects.resolve(conn, found.fresh) if ready is None else Resolved(found.fresh)
    batches, state = resolved.batches, found.state
    newest = state.last_version if state.newest is None else state.newest
    read = keys_to_read(batches, state.last_set_version, newest) | more
    rows = found.rows | _rows(conn, read - window.reads)
    result = plan(batches, rows, read, newest) if read or ready is None or not whole else ready
    if overflowing := result.overflowing():
        rows |= _rows(conn, overflowing)
        result = plan(batches, rows, read | overflowing, newest)
    return _Change(found.fresh, resolved, result, _Additions(result))


def _rows(conn: psycopg.Connection[Any], keys: Set[str]) -> dict[str, Row]:
    if not keys:
        return {}
    return {key: Row(*row) for key, *row in conn.execute(READ_ROWS, wanted(sorted(keys)))}


def _forward(
    conn: psycopg.Connection[Any], lane: Lane, fresh: list[Placed], in_force: Topology, foreign: set[str]
) -> list[Placed]:
    kept, sent = forwarding.forward(lane, fresh, in_force, foreign)
    for id, to, forwarded_id in sent:
        conn.execute(FORWARDED, (id, lane.place, to.shard, to.number, forwarded_id))
    return kept


def _keys_left_by_others(window: list[Placed], fresh: list[Placed]) -> set[str]:
    """Keys of batches that another shift applied, which may have died before it refreshed the cache."""
    if len(window) == len(fresh):
        return set()
    new = {placed.batch.id for placed in fresh}
    return {key for placed in window if placed.batch.id not in new for key in placed.batch.keys}


def _write(conn: psycopg.Connection[Any], lane: Lane, lane_count: int, change: _Change) -> int:
    """Write a change and commit it. Returns the WAL position after the commit, in bytes."""
    additions = change.additions
    dense = is_dense(conn, len(additions.keys), lane_count)
    with conn.pipeline() as pipeline:
        for statement in change.resolved.statements:
            conn.execute(*statement)
        if dense:
            slots = lanes.slots_of(lane.number, lane_count)
            conn.execute(DENSE)
            # Not prepared: its query plan only fits the current table, partitions and settings.
            conn.execute(
                _SQL["add_dense"], {**additions.arguments(), "first": slots.start, "behind": slots.stop}, prepare=False
            )
        elif additions.keys:
            conn.execute(_SQL["add"], additions.arguments())
        _put(conn, change.plan.put)
        _record(conn, lane, change.fresh, change.plan)
        conn.execute("COMMIT")
        written = conn.execute(flush.WRITTEN)
        pipeline.sync()
    return int(written.fetchall()[0][0])


def is_dense(conn: psycopg.Connection[Any], keys: int, lane_count: int) -> bool:
    """Whether `keys` keys are so large a part of a lane's counters that reading all counters once finds their rows
    fastest."""
    if keys < _DENSE_KEYS:
        return False
    size: int = conn.execute(SIZE).fetchone()[0]  # type: ignore[index]
    return size <= keys * _DENSE_BYTES * lane_count


def _put(conn: psycopg.Connection[Any], put: dict[str, Row]) -> None:
    if not put:
        return
    keys = sorted(put)
    rows = [put[key] for key in keys]
    arguments = {
        "keys": arrays.texts(keys),
        "slots": arrays.integers(slots_of(keys)),
        "values": arrays.integers(row.value for row in rows),
        "versions": arrays.integers(row.version for row in rows),
        "set_versions": arrays.integers(row.set_version for row in rows),
    }
    conn.execute(_SQL["put"], arguments)


def _record(conn: psycopg.Connection[Any], lane: Lane, fresh: list[Placed], result: Plan) -> None:
    """Write outcomes, idempotency records, and the lane's newest versions."""
    if result.outcomes:
        rows = [
            (UUID(bytes=o.batch), o.index, o.key, o.status, o.value, o.version, o.reason, o.among)
            for o in result.outcomes
        ]  # fmt: skip
        conn.execute(OUTCOMES, [list(column) for column in zip(*rows, strict=True)])
    tokens = [token for placed in fresh for token in placed.batch.tokens]
    if tokens:
        conn.execute(TOKENS, ([token.token for token in tokens], [token.record for token in tokens]))
    if fresh and lane.spills:
        conn.execute(SPILLED_STATE, (len(fresh), result.last_version, lane.number))
    elif fresh:
        conn.execute(NEW_STATE, (result.last_version, result.last_set_version, lane.number))
