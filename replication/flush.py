"""What a shard's replicas have flushed, according to its primary, and what the write quorum requires.

The quorum in force is part of PostgreSQL's own settings (`tally.quorum`, `tally.quorum_strict`: see
`replication.steering`), so the primary itself returns it, even after a failover or restart.
"""

from __future__ import annotations

from typing import Any

import psycopg

from replication import quorum

# Which rows of pg_stat_replication are replicas that follow. A copy that is being made streams too, and tells what it
# has flushed, but could not take over.
FOLLOWS = "state = 'streaming' AND application_name <> 'pg_basebackup'"
# The write quorum set on the primary, 0 if none.
QUORUM = "coalesce(nullif(current_setting('tally.quorum', true), ''), '0')::integer"
# pg_lsn - '0/0' is the position in bytes; pg_stat_replication needs pg_monitor. One row.
FLUSHED = f"""
SELECT {QUORUM},
       array(SELECT (flush_lsn - '0/0')::bigint FROM pg_stat_replication
             WHERE {FOLLOWS} AND flush_lsn IS NOT NULL)"""  # noqa: S608 - a constant
WRITTEN = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"
# The number of replicas that a strict quorum lacks: an expression for use in other queries.
MISSING = f"""CASE WHEN current_setting('tally.quorum_strict', true) = 'on'
THEN greatest(0, {QUORUM} - (SELECT count(*) FROM pg_stat_replication WHERE {FOLLOWS}))
ELSE 0 END"""  # noqa: S608 - a constant


class QuorumLost(Exception):
    """Too few replicas follow for a strict quorum: nothing may be committed now."""


def written(conn: psycopg.Connection[Any]) -> int:
    """The primary's WAL position in bytes: every commit so far is before it."""
    return conn.execute(WRITTEN).fetchone()[0]  # type: ignore[index,no-any-return]


def flushed(conn: psycopg.Connection[Any], least: int) -> int | None:
    """The WAL position in bytes that enough replicas have flushed: the shard's write quorum, and at least `least`.

    Returns None while there are fewer replicas, and the written position if none is required.
    """
    asked, positions = conn.execute(FLUSHED).fetchall()[0]
    required = max(least, asked)
    return quorum.flushed(positions, required) if required else written(conn)
