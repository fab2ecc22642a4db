"""Turns: which part of a large table a round looks at, so that its work is bounded.

A round looks at whole ranges, with about `TALLY_RECONCILE_ROWS` rows. The next round goes on behind them, or looks at them
again if something was wrong there. Where it goes on is kept in the cache's Redis.
"""

from __future__ import annotations

from typing import Any

import psycopg
from django.conf import settings

from replication import comparisons
from replication.digest import RANGES

# About how many rows a table has, by the statistics of its partitions.
SIZE = """
SELECT coalesce(sum(greatest(reltuples, 0)), 0)::bigint
FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE inhparent = %s::regclass"""


class Turns:
    """The turns of one kind of rounds in a shard."""

    def __init__(self, shard: int, kind: str) -> None:
        self._key = f"reconciliation:{shard}:turns:{kind}"
        self._first = comparisons.load(self._key, dict[str, int]) or {}
        self._next: dict[str, int] = {}

    def due(self, conn: psycopg.Connection[Any], table: str) -> list[int]:
        """The ranges of a table to look at now. Raises `psycopg.Error`."""
        rows = conn.execute(SIZE, (table,)).fetchall()[0][0]
        first, count = self._first.get(table, 0), fitting(rows, settings.TALLY.reconcile_rows)
        self._next[table] = (first + count) % RANGES
        return sorted((first + more) % RANGES for more in range(count))

    def end(self) -> None:
        """The next round goes on behind what this one has looked at."""
        comparisons.store(self._key, self._next)


def fitting(rows: int, most: int) -> int:
    """How many ranges of a table with about so many rows have `most` rows; at least one."""
    return min(RANGES, max(1, RANGES * most // max(1, rows)))
