"""Snapshots of two servers of a shard that show the same moment of a lane, while writes go on.

How the moment is known: every transaction that changes a lane's counters also changes the lane's row of `apply_state`.
The lane's lock serialises these transactions. The row's `xmin`, which streaming copies unchanged, names the last
transaction that a snapshot sees. Two snapshots with the same `xmin` show exactly the same counters in the lane's slots.

Lanes commit in parallel, so under load two snapshots do not show the same moment of all lanes. They have to meet for
each lane.

How they meet: the server that is behind takes a new snapshot, until both see the same transaction. This takes no lock
and pauses nothing, so it does not affect writes. A replica passes through each transaction of its primary and stays
there until the lane's next one: some milliseconds under load, while a look takes a fraction of one. Looks that miss it
are repeated.

Changing the number of lanes writes the row of every lane. So two snapshots with the same `xmin` for a lane have the
same number of lanes, and thus the same slots in it.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import psycopg

from runtime import polling

# One transaction, which `take` chains to the next: no query ever sees two moments.
BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
POINT = """COMMIT AND CHAIN; SELECT last_version, xmin::text, CASE WHEN pg_is_in_recovery()
THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text FROM apply_state ORDER BY lane"""  # 16 rows at most
REPLAYED = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
_LONGEST_PAUSE = 0.25  # seconds


class NeverMet(Exception):
    """The two servers were never seen at the same moment of a lane; the text says why."""


class Point(NamedTuple):
    """The moment of a lane: the newest version applied, and the lane's last transaction."""

    version: int
    transaction: str


class Snapshot:
    """A server's counters as of one moment, until the next `take`. The connection must be in autocommit and serve
    nothing else."""

    points: tuple[Point, ...]  # one for each lane of the shard
    lsn: str  # WAL position when it was taken

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn
        self.number = 0  # of snapshots taken
        conn.execute(BEGIN)
        self.take()

    def take(self) -> None:
        """Take a new snapshot of the server. Raises `psycopg.Error`."""
        cursor = self.conn.execute(POINT, prepare=False)
        cursor.nextset()
        rows = cursor.fetchall()
        self.number += 1
        self.points = tuple(Point(version, transaction) for version, transaction, _ in rows)
        self.lsn = rows[0][2]

    @property
    def version(self) -> int:
        """The newest version applied in any lane."""
        return max(self.points).version


def meet(one: Snapshot, other: Snapshot, lane: int, lanes: int, seconds: float) -> None:
    """Take snapshots until both show the same moment of a lane, in a shard with `lanes` lanes.

    Raises `NeverMet` if that takes longer than `seconds` or a server has another number of lanes; `psycopg.Error`.
    """
    started = time.monotonic()
    while not _have_met(one, other, lane, lanes):
        first, second = one.points[lane].version, other.points[lane].version
        waited = time.monotonic() - started
        if waited > seconds:
            raise NeverMet(f"lane {lane}: after {waited:.0f} s the one was at version {first}, the other at {second}")
        _pause(abs(first - second) / 1e6, waited)
        if first <= second:
            one.take()
        if second <= first:  # both if versions are equal: an older batch, which an operator put back, came between
            other.take()


def _have_met(one: Snapshot, other: Snapshot, lane: int, lanes: int) -> bool:
    if not len(one.points) == len(other.points) == lanes:
        counts = f"{lanes} at first, now {len(one.points)} on the one and {len(other.points)} on the other"
        raise NeverMet(f"the number of lanes changed: {counts}")
    return one.points[lane] == other.points[lane]


def _pause(gap: float, waited: float) -> None:
    """Wait before the next look. Versions are times, so a replica that lags by `gap` seconds needs about that long. The
    longer the wait so far, the rarer the looks."""
    time.sleep(min(_LONGEST_PAUSE, max(gap / 2 if gap > 0.02 else 0.0, waited / 1000)))


def catch_up(primary: Snapshot, replica: Snapshot, lane: int, lanes: int, seconds: float) -> None:
    """Meet again, in snapshots taken after the replica has replayed everything that the primary has written by now.
    Raises as `meet` does."""
    primary.take()
    if not polling.until(lambda: replica.conn.execute(REPLAYED, (primary.lsn,)).fetchall()[0][0], seconds, pause=0.02):
        raise NeverMet(f"after {seconds:.0f} s the replica has not replayed up to {primary.lsn}")
    primary.take()
    replica.take()
    meet(primary, replica, lane, lanes, seconds)
