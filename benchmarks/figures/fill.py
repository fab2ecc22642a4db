"""What the fill of the counters' pages costs: bytes of a counter in each copy, and speed of the windows that change it.

A table for each fill, on the primary of shard 0, changed by the SQL of the worker in turn, window by window, with pauses as
long as those of a busy lane. *Dense* windows change half of all counters at once (`add_dense.sql`), *sparse* ones few,
picked at random (`add.sql`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.context import Context
from benchmarks.document import ROOT, Part, figure
from sharding.slots import slots_of

TITLE = "Fill of the counters' pages"
FILLS = (45, 60, 80, 90, 100)
DEFAULT = 45
COUNTERS = 100_000
WINDOWS = {"dense": COUNTERS // 2, "sparse": 2_500}  # counters in a window
ROUNDS = 8  # of each kind, in each repeat
ROUND_SECONDS = 0.5  # at least, so that a table rests as it does between the windows of a busy lane
SLOTS, PARTITIONS = 1024, 16
SQL = {name: (ROOT / f"counters/apply/sql/{name}.sql").read_text() for name in ("add", "add_dense")}
DENSE = """
SELECT set_config('enable_nestloop', 'off', true), set_config('enable_mergejoin', 'off', true), set_config('work_mem', '64MB', true),
    set_config('jit', 'off', true)"""  # as in `counters.apply.transaction`
SIZES = """
SELECT sum(pg_table_size(c.oid))::float8, sum(pg_indexes_size(c.oid))::float8,
    coalesce(sum(pg_stat_get_tuples_hot_updated(c.oid)) / nullif(sum(pg_stat_get_tuples_updated(c.oid)), 0), 0)::float8
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'counter'::regclass"""


class Table:
    """The counters at one fill, in a schema of their own."""

    def __init__(self, conn: psycopg.Connection[Any], schema: str, fill: int) -> None:
        self._conn, self._schema, self.fill = conn, sql.Identifier(schema), fill
        self._conn.execute(sql.SQL("CREATE SCHEMA {}").format(self._schema))
        self._enter()
        conn.execute("CREATE TABLE counter (LIKE public.counter INCLUDING ALL) PARTITION BY RANGE (slot)")
        for n in range(PARTITIONS):
            bounds = (n * SLOTS // PARTITIONS, (n + 1) * SLOTS // PARTITIONS)
            conn.execute(
                f"CREATE TABLE counter_{n:02} PARTITION OF counter FOR VALUES FROM ({bounds[0]}) TO ({bounds[1]}) "
                f"WITH (fillfactor = {fill}, autovacuum_vacuum_scale_factor = 0.05)"
            )

    def _enter(self) -> None:
        self._conn.execute(sql.SQL("SET search_path = {}").format(self._schema))

    def window(self, keys: list[str]) -> float:
        """Add one to each of these counters, in one transaction. Returns how many seconds it took."""
        keys = sorted(keys)
        count = len(keys)
        arguments: dict[str, Any] = {
            "keys": keys,
            "slots": slots_of(keys),
            "deltas": [1] * count,
            "versions": [time.time_ns() // 1000] * count,
        }
        self._enter()
        began = time.monotonic()
        with self._conn.transaction():
            if count == WINDOWS["dense"]:
                self._conn.execute(DENSE)
                self._conn.execute(SQL["add_dense"], {**arguments, "first": 0, "behind": SLOTS}, prepare=False)
            else:
                self._conn.execute(SQL["add"], arguments)
        return time.monotonic() - began

    def sizes(self) -> dict[str, float]:
        """Bytes of a counter in the table and in its index, and the share of updates that touched no index."""
        self._enter()
        self._conn.execute("SELECT pg_stat_force_next_flush()")
        table, index, hot = self._conn.execute(SIZES).fetchall()[0]
        return {"table": table / COUNTERS, "index": index / COUNTERS, "hot": hot}

    def drop(self) -> None:
        self._conn.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(self._schema))


def run(context: Context) -> Part:
    """Counters changed in a second at each fill, and bytes a counter before and after."""
    names = [f"item:{context.run}:{n:08}" for n in range(COUNTERS)]
    part, rates = Part(), {kind: defaultdict[int, list[float]](list) for kind in WINDOWS}
    with context.subject.database(0) as conn:
        tables: list[Table] = []
        try:
            for fill in FILLS:
                context.tell(f"{fill} % full")
                tables.append(Table(conn, f"fill_{fill}_{context.run}", fill))
                for start in range(0, COUNTERS, 10_000):
                    tables[-1].window(names[start : start + 10_000])
            cold = {table.fill: table.sizes() for table in tables}
            for turn in range(context.repeats):
                for kind, size in WINDOWS.items():
                    context.tell(f"{kind}, {turn + 1} of {context.repeats}")
                    for fill, rate in _rates(context, tables, names, size).items():
                        rates[kind][fill].append(rate)
            hot = {table.fill: table.sizes() for table in tables}
        finally:
            for table in tables:
                table.drop()
    part.figures = [
        figure(
            f"Pages {DEFAULT} % full: {kind} windows",
            "counters/s",
            rates[kind][DEFAULT],
            peer=f"{fill} % full",
            peer_samples=rates[kind][fill],
        )
        for kind in WINDOWS
        for fill in FILLS
        if fill != DEFAULT
    ]
    part.details = {"bytes a counter, never changed": cold, "bytes a counter, after the load": hot}
    return part


def _rates(context: Context, tables: list[Table], names: list[str], size: int) -> dict[int, float]:
    """Counters changed in a second, by fill."""
    seconds: dict[int, float] = dict.fromkeys((table.fill for table in tables), 0.0)
    rounds = max(1, round(ROUNDS * context.scale))
    for _ in range(rounds):
        began = time.monotonic()
        keys = context.rng.sample(names, size)
        for table in context.rng.sample(tables, len(tables)):
            seconds[table.fill] += table.window(keys)
        time.sleep(max(0.0, began + ROUND_SECONDS - time.monotonic()))
    return {fill: rounds * size / spent for fill, spent in seconds.items()}
