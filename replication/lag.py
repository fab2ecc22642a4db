"""Leave lagging replicas out of reads until they have caught up.

The replica itself is asked, on the connection that will serve the read. That needs no primary and no worker, and the
lag it reports is as new as the data it would return. Each process asks each server a few times a second. A server that
is too far behind is left out for a second: connections to it are closed, new ones go to the others
(`databases.left_out`). Then it is asked again.

Two bounds limit how far behind it can be. One is the age of the last commit it applied; after an hour without writes
that is an hour, even without lag. The other comes from this process's earlier looks at what the replica has received
and applied (`replication.applied`). A process that has not looked for a while has no such bound while something is
left to apply: it leaves the replica out until its next look.

A replica cannot know how much it has not been sent. Its receiver notices a silent primary after PostgreSQL's
`wal_receiver_timeout` (10 s in the local cluster); until then the replica looks fresh.
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
from runtime.resources import owned
from sharding.databases import left_out, replica_choice

# Whether it receives; positions received and applied, in bytes; seconds since the last applied commit was made.
# No row if the server is not a replica (any more).
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


class _Seen:
    """What this process has seen of the servers that it has asked."""

    def __init__(self) -> None:
        self.fresh_at: dict[Server, float] = {}  # monotonic time at which a server was last found fresh
        self._looks: defaultdict[Server, Looks] = defaultdict(Looks)
        self._lock = Lock()

    def behind(self, server: Server, receiving: bool, received: int, applied: int, since_commit: float) -> Behind:
        """How far a server is behind, by what it answers to `LAG`."""
        with self._lock:
            if not receiving:
                self._looks.pop(server, None)  # it may come back on another timeline
                return Behind(float("inf"), float("inf"))
            found = self._looks[server].look(time.monotonic(), received, applied)
        return Behind(found.least, min(found.most, since_commit))


@owned
def _seen() -> _Seen:
    return _Seen()


def fitness(conn: psycopg.Connection[Any]) -> Fitness:
    """Whether a connection's server may serve reads as a replica. `primary`: it is no replica. Raises
    `psycopg.Error`."""
    if left_out().has(conn):
        return "lagging"
    seen, server = _seen(), (conn.info.host, conn.info.port)
    if time.monotonic() - seen.fresh_at.get(server, -ASK_SECONDS) < ASK_SECONDS:
        return "fresh"
    row = conn.execute(LAG).fetchone()
    if row is None:
        return "primary"
    behind = seen.behind(server, *row)
    replica_choice().seen((conn.info.host, str(conn.info.port)), behind.most)
    limit = settings.TALLY.replica_lag_seconds
    if behind.most <= limit:
        seen.fresh_at[server] = time.monotonic()
        return "fresh"
    if behind.least <= limit:  # it may or may not lag
        left_out().add(conn, ASK_SECONDS)
        return "lagging"
    left_out().add(conn, OUT_SECONDS)
    LEFT_OUT.labels(f"{server[0]}:{server[1]}").inc()
    log.warning("replica_left_out", server=f"{server[0]}:{server[1]}", seconds=behind.least)
    return "lagging"
