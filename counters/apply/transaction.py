"""One transaction of a lane: lock, ledger, plan, counters, applied records, commit.

I2 lives here: only batches whose ledger row is new are planned, and the same transaction writes their rows. I6, too:
the transaction reads the topology, and operations on another lane's slots, in this shard or another, are forwarded.

It takes two round trips, each a libpq pipeline: first the lock, the ledger rows and all reads, then the other writes
and the COMMIT. Each statement has its own snapshot, so those after the lock see what its last holder committed. If a
statement fails, those after it are not executed.

Arrays are passed to PostgreSQL as literals (`literal`): the driver's adaptation costs ten times as much per element.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from counters.apply import forwarding
from counters.apply.loading import Window
from counters.apply.plan import Placed, Plan, Row, keys_to_read, plan
from counters.reading import cache
from counters.rows import WANTED, wanted
from replication import flush
from sharding import lanes, topology
from sharding.lanes import Lane
from sharding.slots import slots_of
from sharding.topology import Topology

LOCK = f"SELECT pg_advisory_xact_lock(%s, %s), {flush.MISSING}"
LEDGER = """
INSERT INTO ledger (id, lane, position, writes)
SELECT id, %s, position, writes FROM unnest(%s::uuid[], %s::bigint[], %s::bytea[]) AS batch (id, position, writes)
ON CONFLICT (id, lane) DO NOTHING RETURNING id"""
# A lane that is no longer in force has no row: then the newest of all lanes counts.
STATE = """
SELECT coalesce(max(last_set_version) FILTER (WHERE lane = %(lane)s), max(last_set_version)),
    coalesce(max(last_version) FILTER (WHERE lane = %(lane)s), max(last_version)) FROM apply_state"""
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

_DENSE_KEYS = 1000
_DENSE_BYTES = 1000  # bytes of the lane's part of the table per key: scanned in the time of one index probe
_SQL = {path.stem: path.read_text() for path in (Path(__file__).parent / "sql").glob("*.sql")}


def literal(values: Iterable[int]) -> str:
    """A PostgreSQL literal of an integer array."""
    return "{" + str(list(values))[1:-1] + "}"


def text_literal(keys: Sequence[str]) -> str:
    """A PostgreSQL literal of a text array; elements are quoted, as `null` may be a key."""
    joined = "\n".join(keys)
    if '"' in joined or "\\" in joined:  # no valid key has them, but a batch may contain anything
        joined = joined.replace("\\", "\\\\").replace('"', '\\"')
    if joined.count("\n") != len(keys) - 1:
        raise ValueError("a key with a line break")
    return '{"' + joined.replace("\n", '","') + '"}' if keys else "{}"


@dataclass(frozen=True, slots=True)
class Committed:
    """What a transaction did. `stale`: keys to refresh in the cache; `written`: WAL position after the commit, in
    bytes."""

    fresh: list[Placed]
    plan: Plan
    stale: list[str]
    written: int


class _Found(NamedTuple):
    """What was read from the shard under the lock; `rows` are those of the window's `reads`."""

    fresh: list[Placed]
    topology: Topology | None
    state: tuple[int, int]
    rows: dict[str, Row]


class _Additions:
    """A plan's additions, keys sorted."""

    def __init__(self, result: Plan) -> None:
        self._plan = result
        self.keys = sorted(result.added)
        self.slots = slots_of(self.keys)

    def arguments(self) -> dict[str, str]:
        return {
            "keys": text_literal(self.keys),
            "slots": literal(self.slots),
            "deltas": literal(map(self._plan.added.__getitem__, self.keys)),
            "versions": literal(map(self._plan.versions.__getitem__, self.keys)),
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
        fresh, result, additions = _change(conn, lane, window, found, overflows=overflows)
        keys = [
            key for key in (*result.keys, *_keys_left_by_others(window.batches, found.fresh)) if key not in result.put
        ]
        stale = cache.announce(lane, result.last_version, keys)
        lane_count = found.topology.lane_count if found.topology else 1
        return Committed(fresh, result, stale, _write(conn, lane, lane_count, fresh, result, additions))
    except BaseException:
        if not conn.closed:
            conn.rollback()
        raise


def _ask(conn: psycopg.Connection[Any], lane: Lane, window: Window, question: topology.Question) -> _Found:
    """Begin, take the lock, insert the batches into the ledger, and read what is needed from the shard."""
    ids = "{" + ",".join([placed.batch.id.hex() for placed in window.batches]) + "}"
    positions = literal(placed.position for placed in window.batches)
    writes = "{" + ",".join([_writes_of(placed) for placed in window.batches]) + "}"
    reads = sorted(window.reads)
    with conn.pipeline() as pipeline:
        conn.execute("BEGIN")
        locked = conn.execute(LOCK, (lanes.LOCK_ID, lane.number))
        entered = conn.execute(LEDGER, (lane.number, ids, positions, writes))
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
        fresh, question.answer(owners.fetchone()), state.fetchall()[0], {key: Row(*row) for key, *row in rows}
    )


def _writes_of(placed: Placed) -> str:
    """The writes of its flush that a batch has, one bit each in the order of `get_bit`, as an element of a bytea
    array."""
    bits = 0
    for index, _ in placed.batch.segments:
        bits |= 1 << index
    return r"\\x" + bits.to_bytes((bits.bit_length() + 7) // 8, "little").hex()


def _change(
    conn: psycopg.Connection[Any], lane: Lane, window: Window, found: _Found, *, overflows: bool
) -> tuple[list[Placed], Plan, _Additions]:
    """Forward other lanes' operations. Returns the remaining batches and their plan."""
    fresh = found.fresh
    result = _planned(conn, window, found, window.plan if len(fresh) == len(window.batches) else None)
    additions = _Additions(result)
    if found.topology and not found.topology.owns(lane, (*additions.slots, *slots_of((*result.put, *result.read)))):
        foreign = {key for key in result.keys if found.topology.lane_of(key) != lane}
        fresh = _forward(conn, lane, fresh, found.topology, foreign)
        result = _planned(conn, window, found._replace(fresh=fresh))
        additions = _Additions(result)
    if overflows:
        more = {row[0] for row in conn.execute(_SQL["overflowing"], additions.arguments())}
        result = _planned(conn, window, found._replace(fresh=fresh), more=more)
        additions = _Additions(result)
    return fresh, result, additions


def _planned(
    conn: psycopg.Connection[Any],
    window: Window,
    found: _Found,
    ready: Plan | None = None,
    more: Set[str] = frozenset(),
) -> Plan:
    """Plan the new batches; `ready` is the plan made ahead, `more` are keys that must be read."""
    read = keys_to_read(found.fresh, *found.state) | more
    rows = found.rows | _rows(conn, read - window.reads)
    result = plan(found.fresh, rows, read) if read or ready is None else ready
    if overflowing := result.overflowing():
        rows |= _rows(conn, overflowing)
        result = plan(found.fresh, rows, read | overflowing)
    return result


def _rows(conn: psycopg.Connection[Any], keys: Set[str]) -> dict[str, Row]:
    if not keys:
        return {}
    return {key: Row(*row) for key, *row in conn.execute(READ_ROWS, wanted(sorted(keys)))}


def _forward(
    conn: psycopg.Connection[Any], lane: Lane, fresh: list[Placed], in_force: Topology, foreign: set[str]
) -> list[Placed]:
    kept, sent = forwarding.forward(lane, fresh, in_force, foreign)
    for id, to, forwarded_id in sent:
        conn.execute(FORWARDED, (id, lane.number, to.shard, to.number, forwarded_id))
    return kept


def _keys_left_by_others(window: list[Placed], fresh: list[Placed]) -> set[str]:
    """Keys of batches that another shift applied, which may have died before it refreshed the cache."""
    if len(window) == len(fresh):
        return set()
    new = {placed.batch.id for placed in fresh}
    return {key for placed in window if placed.batch.id not in new for key in placed.batch.keys}


def _write(  # noqa: PLR0913, PLR0917
    conn: psycopg.Connection[Any], lane: Lane, lane_count: int, fresh: list[Placed], result: Plan, additions: _Additions
) -> int:
    """Write a plan and commit it. Returns the WAL position after the commit, in bytes."""
    dense = is_dense(conn, len(additions.keys), lane_count)
    with conn.pipeline() as pipeline:
        if dense:
            slots = lanes.slots_of(lane.number, lane_count)
            conn.execute(DENSE)
            # Not prepared: its query plan only fits the current table, partitions and settings.
            conn.execute(
                _SQL["add_dense"], {**additions.arguments(), "first": slots.start, "behind": slots.stop}, prepare=False
            )
        elif additions.keys:
            conn.execute(_SQL["add"], additions.arguments())
        _put(conn, result.put)
        _record(conn, lane, fresh, result)
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
        "keys": text_literal(keys),
        "slots": literal(slots_of(keys)),
        "values": literal(row.value for row in rows),
        "versions": literal(row.version for row in rows),
        "set_versions": literal(row.set_version for row in rows),
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
    if fresh:
        conn.execute(NEW_STATE, (result.last_version, result.last_set_version, lane.number))
