"""Snapshots of two servers of a shard that show the same moment, while writes go on.

How the moment is known: every transaction that changes counters changes the row of `apply_state`, too, and they come one after the other
(the apply lock). So whose version of that row a snapshot sees (`xmin`, which streaming copies as it is) is the last transaction that
it sees, and two snapshots with the same one show the same counters: not nearly, exactly.

How they meet: whichever is behind takes a new snapshot, until both see the same transaction. No lock is taken and nothing is paused, so
writes do not notice. A replica gets to each transaction that its primary had, and stays there until the next one: milliseconds
under load, some thousand times what a look costs when idle. Looks that miss it are repeated.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import psycopg

# One transaction, chained to the next by `take`: nothing is ever seen of two moments.
BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
POINT = """COMMIT AND CHAIN; SELECT last_version, xmin::text, CASE WHEN pg_is_in_recovery()
THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END::text FROM apply_state"""  # one row of one page
REPLAYED = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
_LONGEST_PAUSE = 0.25  # seconds


class NeverMet(Exception):
    """Within the time given the two servers were never seen at the same moment; the text says where each of them is."""


class Point(NamedTuple):
    """The newest version applied, and the transaction that did it."""

    version: int
    transaction: str


class Snapshot:
    """A server's counters as of one moment, until the next `take`. The connection is in autocommit and used for nothing else."""

    point: Point
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
        version, transaction, self.lsn = cursor.fetchall()[0]
        self.number += 1
        self.point = Point(version, transaction)


def meet(one: Snapshot, other: Snapshot, seconds: float) -> None:
    """Take snapshots until both show the same moment. Raises `NeverMet`, `psycopg.Error`."""
    started = time.monotonic()
    while one.point != other.point:
        waited = time.monotonic() - started
        if waited > seconds:
            raise NeverMet(f"after {waited:.0f} s the one was at version {one.point.version}, the other at {other.point.version}")
        behind = _behind(one, other)
        _pause(abs(one.point.version - other.point.version) / 1e6, waited)
        for snapshot in behind:
            snapshot.take()


def _behind(one: Snapshot, other: Snapshot) -> list[Snapshot]:
    if one.point.version == other.point.version:  # the batch between them was older than its neighbours: one put back by hand
        return [one, other]
    return [one] if one.point.version < other.point.version else [other]


def _pause(gap: float, waited: float) -> None:
    """A version is a time: a replica that lags by `gap` seconds is there after about as long. Who waits long looks less often."""
    time.sleep(min(_LONGEST_PAUSE, max(gap / 2 if gap > 0.02 else 0.0, waited / 1000)))


def catch_up(primary: Snapshot, replica: Snapshot, seconds: float) -> None:
    """Take both anew, after the replica has replayed all that the primary has written by now. Raises `NeverMet`, `psycopg.Error`."""
    primary.take()
    deadline = time.monotonic() + seconds
    while not replica.conn.execute(REPLAYED, (primary.lsn,)).fetchall()[0][0]:
        if time.monotonic() > deadline:
            raise NeverMet(f"after {seconds:.0f} s the replica has not replayed up to {primary.lsn}")
        time.sleep(0.02)
    primary.take()
    replica.take()
    meet(primary, replica, seconds)
