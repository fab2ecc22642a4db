"""A worker's connections to the primaries: kept between shifts, one per concurrent shift.

Not a pool: no shift waits for a connection, and a failure to open one is raised at once. A shift has its own way to
wait for a shard that is down.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from sharding import databases

STATEMENT_SECONDS = 15.0  # a primary that hangs for so long is considered down
_IDLE_SECONDS = 60.0
_SESSION = "SET idle_in_transaction_session_timeout = '5s'; SET lock_timeout = '10s'"


class Connections:
    """Open, idle connections by shard. Thread-safe."""

    def __init__(self) -> None:
        self._idle: dict[int, list[tuple[psycopg.Connection[Any], float]]] = {}

    @contextmanager
    def of(self, shard: int) -> Iterator[psycopg.Connection[Any]]:
        """A connection to a shard's primary, in autocommit mode; closed if the block fails. Raises
        `psycopg.OperationalError`."""
        conn = self._taken(shard) or _opened(shard)
        try:
            yield conn
        except BaseException:
            conn.close()
            raise
        self._idle.setdefault(shard, []).append((conn, time.monotonic()))

    def close(self) -> None:
        """Close the idle connections."""
        for idle in self._idle.values():
            while idle:
                idle.pop()[0].close()

    def _taken(self, shard: int) -> psycopg.Connection[Any] | None:
        """The last used connection that is still usable, or None."""
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
