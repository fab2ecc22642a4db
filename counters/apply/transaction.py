"""What one transaction of the applier does in a shard: the ledger, the plan, the counters, the books. The caller opens and commits it.

I2 lives here: only batches whose ledger row is new are planned, and their rows are written by the same transaction. I6, too: the topology
is read in it, and operations on slots that another shard owns are forwarded.

Arrays go to PostgreSQL as literals (`literal`): the driver's own way costs ten times as much for each element.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from counters.apply import forwarding
from counters.apply.plan import Placed, Plan, Row, keys_to_read, plan
from sharding import topology
from sharding.slots import slot_of

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

_SQL = {path.stem: path.read_text() for path in (Path(__file__).parent / "sql").glob("*.sql")}


def literal(values: Iterable[int]) -> str:
    """An array of whole numbers as PostgreSQL reads it."""
    return "{" + str(list(values))[1:-1] + "}"


def text_literal(keys: Sequence[str]) -> str:
    """An array of texts as PostgreSQL reads it; in quotes, as `null` may be a key."""
    joined = "\n".join(keys)
    if '"' in joined or "\\" in joined:  # no key has them, but a batch is only bytes
        joined = joined.replace("\\", "\\\\").replace('"', '\\"')
    if joined.count("\n") != len(keys) - 1:
        raise ValueError("a key with a line break")
    return '{"' + joined.replace("\n", '","') + '"}' if keys else "{}"


def new_in_ledger(conn: psycopg.Connection[Any], window: Sequence[Placed]) -> list[Placed]:
    """Enter the batches of a window; those that were not there before."""
    ids = [placed.batch.uuid for placed in window]
    new = {row[0] for row in conn.execute(LEDGER, (ids, [placed.position for placed in window]))}
    return [placed for placed, id in zip(window, ids, strict=True) if id in new]


def change(conn: psycopg.Connection[Any], shard: int, fresh: list[Placed]) -> tuple[Plan, int]:
    """Do what new batches ask for; what that was, and how many rows were written.

    Raises `WrongShard`, and `JournalUnavailable` if something could not be forwarded.
    """
    if not fresh:
        return Plan(), 0
    owned = topology.read(conn, shard)
    state = conn.execute(STATE).fetchall()[0]
    result, rows = _planned(conn, fresh, state)
    if owned is not None and (foreign := owned.foreign(shard, result.keys)):
        fresh = _forward(conn, shard, fresh, owned, foreign)
        result, rows = _planned(conn, fresh, state)
    while True:
        try:
            with conn.transaction():
                written = _write(conn, result)
        except psycopg.errors.NumericValueOutOfRange:
            more = _overflowing(conn, result)
            if not more:
                raise
            rows |= _rows(conn, more)
            result = plan(fresh, rows, result.read | more)
        else:
            break
    _keep_books(conn, fresh, result)
    return result, written


def _planned(conn: psycopg.Connection[Any], fresh: list[Placed], state: tuple[int, int]) -> tuple[Plan, dict[str, Row]]:
    read = keys_to_read(fresh, *state)
    rows = _rows(conn, read)
    result = plan(fresh, rows, read)
    if more := result.overflowing():
        rows |= _rows(conn, more)
        result = plan(fresh, rows, read | more)
    return result, rows


def _forward(conn: psycopg.Connection[Any], shard: int, fresh: list[Placed], owned: topology.Topology, foreign: set[str]) -> list[Placed]:
    kept, sent = forwarding.forward(shard, fresh, owned, foreign)
    for id, owner, forwarded_id in sent:
        conn.execute(FORWARDED, (id, owner, forwarded_id))
    return kept


def _rows(conn: psycopg.Connection[Any], keys: set[str]) -> dict[str, Row]:
    if not keys:
        return {}
    wanted = sorted(keys)
    return {key: Row(*row) for key, *row in conn.execute(READ_ROWS, (wanted, [slot_of(key) for key in wanted]))}


def _write(conn: psycopg.Connection[Any], result: Plan) -> int:
    """Write the rows of a plan, keys in sorted order; how many they are."""
    if result.added:
        conn.execute(_SQL["add"], _additions(result))
    if result.put:
        keys = sorted(result.put)
        rows = [result.put[key] for key in keys]
        arguments = {
            "keys": text_literal(keys),
            "slots": literal(map(slot_of, keys)),
            "values": literal(row.value for row in rows),
            "versions": literal(row.version for row in rows),
            "set_versions": literal(row.set_version for row in rows),
        }
        conn.execute(_SQL["put"], arguments)
    return len(result.added) + len(result.put)


def _additions(result: Plan) -> dict[str, str]:
    keys = sorted(result.added)
    return {
        "keys": text_literal(keys),
        "slots": literal(map(slot_of, keys)),
        "deltas": literal(map(result.added.__getitem__, keys)),
        "versions": literal(map(result.versions.__getitem__, keys)),
    }


def _overflowing(conn: psycopg.Connection[Any], result: Plan) -> set[str]:
    return {row[0] for row in conn.execute(_SQL["overflowing"], _additions(result))} if result.added else set()


def _keep_books(conn: psycopg.Connection[Any], fresh: list[Placed], result: Plan) -> None:
    if result.outcomes:
        rows = [(UUID(bytes=o.batch), o.index, o.key, o.status, o.value, o.version, o.reason) for o in result.outcomes]
        conn.execute(OUTCOMES, [list(column) for column in zip(*rows, strict=True)])
    tokens = [token for placed in fresh for token in placed.batch.tokens]
    if tokens:
        conn.execute(TOKENS, ([token.token for token in tokens], [token.record for token in tokens]))
    conn.execute(NEW_STATE, (result.last_version, result.last_set_version))
