"""Replicas that lag are left out of reads, and come back by themselves.

A replica is asked itself, on the connection that is to be read from: that needs no primary and no worker, and what it says is as new as
the answer it would give. Each server is asked a few times a second by each process. One that is too far behind is left out for a second:
connections to it are given back, new ones go to the others (`databases.left_out`); then it is asked again.

What a replica cannot know is how much it has not been sent. Its receiver notices a primary that is silent after PostgreSQL's
`wal_receiver_timeout` (10 s in the local cluster); until then such a replica looks fresh.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import psycopg
import structlog
from django.conf import settings
from prometheus_client import Counter

from sharding.databases import left_out

# Seconds since the commit that was applied last, unless all that was received is applied. No row: this is no replica (any more).
LAG = """
SELECT CASE WHEN NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming') THEN 'infinity'::float8
            WHEN pg_last_wal_replay_lsn() >= pg_last_wal_receive_lsn() THEN 0
            ELSE coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8, 0) END
WHERE pg_is_in_recovery()"""
ASK_SECONDS = 0.25
OUT_SECONDS = 1.0
LEFT_OUT = Counter("tally_replica_left_out_total", "Times that a replica was found to lag and was left out of reads", ["server"])
log = structlog.get_logger(__name__)

Fitness = Literal["fresh", "lagging", "primary"]
_asked: dict[tuple[str, int], float] = {}  # server → monotonic time at which it was last found fresh


def fitness(conn: psycopg.Connection[Any]) -> Fitness:
    """Whether the server of a connection may answer for a replica. `primary`: it is none. Raises `psycopg.Error`."""
    if left_out.has(conn):
        return "lagging"
    server = conn.info.host, conn.info.port
    if time.monotonic() - _asked.get(server, -ASK_SECONDS) < ASK_SECONDS:
        return "fresh"
    row = conn.execute(LAG).fetchone()
    if row is None:
        return "primary"
    if row[0] > settings.TALLY.replica_lag_seconds:
        left_out.add(conn, OUT_SECONDS)
        LEFT_OUT.labels(f"{server[0]}:{server[1]}").inc()
        log.warning("replica_left_out", server=f"{server[0]}:{server[1]}", seconds=row[0])
        return "lagging"
    _asked[server] = time.monotonic()
    return "fresh"
