"""Snapshots of two servers of a shard that show the same moment of a lane, while writes go on.

How the moment is known: every transaction that changes a lane's counters changes the lane's row of `apply_state`, too.
The transactions of a lane come one after the other (the lane's lock). The `xmin` of the row, which streaming copies as
it is, names the last of them that a snapshot sees. Two snapshots with the same `xmin` show the same counters in the
lane's slots: not nearly, exactly.

Lanes commit beside each other, so under load two snapshots do not show the same moment of all lanes. They have to meet
for each lane.

How they meet: whichever is behind takes a new snapshot, until both see the same transaction. No lock is taken and
nothing is paused, so writes do not notice. A replica gets to each transaction that its primary had, and stays there
until the lane's next one: milliseconds under load, some thousand times what a look costs when idle. Looks that miss it
are repeated.

A change of the number of lanes writes the row of every lane. So two snapshots with the same `xmin` for a lane have the
same number of lanes, and mean the same slots by it.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import psycopg

from runtime import polling

# One transaction, chained to the next by `take`: nothing is ever seen of two moments.
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
    """A server's counters as of one moment, until the next `take`. The connection is in autocommit and used for nothing
    else."""

    points: tuple[Point, ...]  # one for each lane of the shard
    lsn: str  # WAL position when it was taken

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn
        self.number = 0  # of snapshots taken
        conn.execute(BEGIN)
        self.take()

    def take(self) -> None:
        """Show the server as it is now. Raises `psycopg.Error`."""
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
    """Take snapshots until both show the same moment of a lane, of a shard with so many.

    Raises `NeverMet` if that takes longer than `seconds`, or if one of them has another number of lanes;
    `psycopg.Error`.
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
        if second <= first:  # both, if the batch between them was older than its neighbours: one put back by hand
            other.take()


def _have_met(one: Snapshot, other: Snapshot, lane: int, lanes: int) -> bool:
    if not len(one.points) == len(other.points) == lanes:
        counts = f"{lanes} at first, now {len(one.points)} on the one and {len(other.points)} on the other"
        raise NeverMet(f"the number of lanes changed: {counts}")
    return one.points[lane] == other.points[lane]


def _pause(gap: float, waited: float) -> None:
    """A version is a time: a replica that lags by `gap` seconds is there after about as long. Who waits long looks less
    often."""
    time.sleep(min(_LONGEST_PAUSE, max(gap / 2 if gap > 0.02 else 0.0, waited / 1000)))


def catch_up(primary: Snapshot, replica: Snapshot, lane: int, lanes: int, seconds: float) -> None:
    """Meet again, in snapshots taken after the replica has replayed all that the primary has written by now. Raises as
    `meet` does."""
    primary.take()
    if not polling.until(lambda: replica.conn.execute(REPLAYED, (primary.lsn,)).fetchall()[0][0], seconds, pause=0.02):
        raise NeverMet(f"after {seconds:.0f} s the replica has not replayed up to {primary.lsn}")
    primary.take()
    replica.take()
    meet(primary, replica, lane, lanes, seconds)
