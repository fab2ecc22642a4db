"""Connections of a worker's shifts to the primaries: kept between shifts, one for each shift that runs at once.

Not a pool: nobody waits for one, and one that cannot be opened says so at once. A shift has its own way to wait for a
shard that is down.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from sharding import databases

STATEMENT_SECONDS = 15.0  # a primary that stands still for so long is taken for dead
_IDLE_SECONDS = 60.0
_SESSION = "SET idle_in_transaction_session_timeout = '5s'; SET lock_timeout = '10s'"


class Connections:
    """Open, idle connections by shard. May be used by many threads."""

    def __init__(self) -> None:
        self._idle: dict[int, list[tuple[psycopg.Connection[Any], float]]] = {}

    @contextmanager
    def of(self, shard: int) -> Iterator[psycopg.Connection[Any]]:
        """A connection to a shard's primary, in autocommit; closed if the block fails. Raises
        `psycopg.OperationalError`."""
        conn = self._taken(shard) or _opened(shard)
        try:
            yield conn
        except BaseException:
            conn.close()
            raise
        self._idle.setdefault(shard, []).append((conn, time.monotonic()))

    def close(self) -> None:
        """Close what is idle."""
        for idle in self._idle.values():
            while idle:
                idle.pop()[0].close()

    def _taken(self, shard: int) -> psycopg.Connection[Any] | None:
        """The connection that was used last, if its server has not hung up."""
        idle = self._idle.setdefault(shard, [])
        while idle:
            conn, since = idle.pop()
            if time.monotonic() - since < _IDLE_SECONDS and not conn.closed and not databases.is_stale(conn):
                return conn
            conn.close()
        return None


def _opened(shard: int) -> psycopg.Connection[Any]:
    conn = databases.connect(databases.primary(shard), timeout=STATEMENT_SECONDS, autocommit=True)
    conn.execute(_SESSION)
    conn.prepare_threshold = 2
    return conn
