"""What the replicas of a shard have flushed, asked of its primary, and what its write quorum asks of them.

The quorum in force stands where PostgreSQL's own settings stand (`tally.quorum`, `tally.quorum_strict`: see
`replication.steering`), so the primary itself tells it, also after a failover and a restart.
"""

from __future__ import annotations

from typing import Any

import psycopg

from replication import quorum

# The write quorum that the primary has been told, 0 if none.
QUORUM = "coalesce(nullif(current_setting('tally.quorum', true), ''), '0')::integer"
# pg_lsn - '0/0' is the position in bytes; pg_stat_replication needs pg_monitor. One row.
FLUSHED = f"""
SELECT {QUORUM},
       array(SELECT (flush_lsn - '0/0')::bigint FROM pg_stat_replication
             WHERE state = 'streaming' AND flush_lsn IS NOT NULL)"""  # noqa: S608 - a constant
WRITTEN = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"
# Replicas that a strict quorum lacks: an expression, to be asked for along with something else.
MISSING = f"""CASE WHEN current_setting('tally.quorum_strict', true) = 'on'
THEN greatest(0, {QUORUM} - (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'))
ELSE 0 END"""  # noqa: S608 - a constant


class QuorumLost(Exception):
    """A strict quorum, and too few replicas follow: nothing may be committed now."""


def written(conn: psycopg.Connection[Any]) -> int:
    """The primary's WAL position in bytes: every commit so far is before it."""
    return conn.execute(WRITTEN).fetchone()[0]  # type: ignore[index,no-any-return]


def flushed(conn: psycopg.Connection[Any], least: int) -> int | None:
    """The WAL position that enough replicas have flushed: the shard's write quorum, and no fewer than `least`.

    None while there are fewer; what is written where none is asked for.
    """
    asked, positions = conn.execute(FLUSHED).fetchall()[0]
    required = max(least, asked)
    return quorum.flushed(positions, required) if required else written(conn)
