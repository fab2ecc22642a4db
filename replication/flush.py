"""What the replicas of a shard have flushed, asked of its primary."""

from __future__ import annotations

from typing import Any

import psycopg

from replication import quorum

# pg_lsn - '0/0' is the position in bytes; pg_stat_replication needs pg_monitor. One row a replica.
FLUSHED = "SELECT (flush_lsn - '0/0')::bigint FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn IS NOT NULL"
WRITTEN = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"


def written(conn: psycopg.Connection[Any]) -> int:
    """The primary's WAL position in bytes: every commit so far is before it."""
    return conn.execute(WRITTEN).fetchone()[0]  # type: ignore[index,no-any-return]


def flushed(conn: psycopg.Connection[Any], required: int) -> int | None:
    """The WAL position that at least `required` replicas have flushed; None while there are fewer."""
    return quorum.flushed((row[0] for row in conn.execute(FLUSHED)), required)
