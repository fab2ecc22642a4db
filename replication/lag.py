"""Replicas that lag are left out of reads, and come back by themselves.

A replica is asked itself, on the connection that is to be read from: that needs no primary and no worker, and what it
says is as new as the answer it would give. Each server is asked a few times a second by each process. One that is too
far behind is left out for a second: connections to it are given back, new ones go to the others (`databases.left_out`);
then it is asked again.

Two things bound how far behind it is. The commit that it applied last was made so long ago; where nothing was written
for an hour that is an hour, even on a replica without any lag. And earlier looks of this process tell how long what the
replica has received has waited (`replication.applied`). A process that has not looked for a while cannot tell while
there is something to apply: it leaves the replica out until its next look.

What a replica cannot know is how much it has not been sent. Its receiver notices a primary that is silent after
PostgreSQL's `wal_receiver_timeout` (10 s in the local cluster); until then such a replica looks fresh.
"""

from __future__ import annotations

import time
from collections import defaultdict
from threading import Lock
from typing import Any, Literal

import psycopg
import structlog
from django.conf import settings
from prometheus_client import Counter

from replication.applied import Behind, Looks
from sharding.databases import left_out

# Whether it receives; positions received and applied; seconds since the commit applied last was made.
# No row: this is no replica (any more).
LAG = """
SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'),
       coalesce(pg_last_wal_receive_lsn() - '0/0'::pg_lsn, 0)::bigint,
       coalesce(pg_last_wal_replay_lsn() - '0/0'::pg_lsn, 0)::bigint,
       coalesce(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0)::float8
WHERE pg_is_in_recovery()"""
ASK_SECONDS = 0.25
OUT_SECONDS = 1.0
LEFT_OUT = Counter(
    "tally_replica_left_out_total", "Times that a replica was found to lag and was left out of reads", ["server"]
)
log = structlog.get_logger(__name__)

Fitness = Literal["fresh", "lagging", "primary"]
Server = tuple[str, int]
_asked: dict[Server, float] = {}  # server → monotonic time at which it was last found fresh
_looks: defaultdict[Server, Looks] = defaultdict(Looks)
_looking = Lock()


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
    behind = _behind(server, *row)
    limit = settings.TALLY.replica_lag_seconds
    if behind.most <= limit:
        _asked[server] = time.monotonic()
        return "fresh"
    if behind.least <= limit:  # not known
        left_out.add(conn, ASK_SECONDS)
        return "lagging"
    left_out.add(conn, OUT_SECONDS)
    LEFT_OUT.labels(f"{server[0]}:{server[1]}").inc()
    log.warning("replica_left_out", server=f"{server[0]}:{server[1]}", seconds=behind.least)
    return "lagging"


def _behind(server: Server, receiving: bool, received: int, applied: int, since_commit: float) -> Behind:
    with _looking:
        if not receiving:
            _looks.pop(server, None)  # the timeline may be another one afterwards
            return Behind(float("inf"), float("inf"))
        found = _looks[server].look(time.monotonic(), received, applied)
    return Behind(found.least, min(found.most, since_commit))
