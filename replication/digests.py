"""Anti-entropy: compare the tables of a shard's primary (`tables`) with each replica's, by digest, while writes go on.

Streaming copies every change; this finds what it cannot: a damaged page, a restored backup, a manual change, a bug. A
round goes through the lanes. It computes the leaves of a lane on both servers in SQL, in snapshots of the same moment
of this lane (`snapshots`), and reads rows only of slots that differ. It checks differing keys again once the replica
has replayed everything that the primary wrote in between: a manual change on the primary does not update
`apply_state`, so it may fall between two snapshots. Only keys that differ both times are reported.

A server's digest covers all its leaves, each lane at its own moment. While nothing is written, all moments are the
same.

A round compares all counters, and of another table as much as its turn (`turns`).

Results are stored in the cache's Redis (`latest`). The repair for a replica that differs is Patroni's reinitialise,
which copies the node again from its primary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg
from django.conf import settings
from psycopg import sql

from replication import comparisons, digest, patroni, tables
from replication.comparisons import Comparison, Round, latest
from replication.digest import Difference, Leaf, Row, Tree
from replication.snapshots import NeverMet, Snapshot, catch_up, meet
from replication.tables import COUNTER, Table
from replication.turns import Turns
from sharding import lanes, nodes
from sharding.databases import ShardUnavailable

__all__ = ["Busy", "Comparison", "Round", "compare", "latest"]

MOST_NAMED = 100
MOST_COUNTED = 10_000
LOCK = "SELECT pg_try_advisory_lock(%s)"
LOCK_ID = 0x7A12  # one round per shard at a time; released when the connection closes
CONNECTED = "SELECT pg_is_in_recovery()"
SESSION = "SET max_parallel_workers_per_gather = 0; SET jit = off; SET application_name = 'reconciliation'"
TIMELINE = "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
_SQL = {path.stem: sql.SQL(path.read_text()) for path in (Path(__file__).parent / "sql").glob("*.sql")}
_STATEMENT_SECONDS = 300.0  # to read one range, a sixteenth of a shard
_FETCH = 5000

Tell = Callable[[str, int, int], None]  # (node, ranges of counters done, ranges in all)
Due = Mapping[Table, Collection[int]]  # the ranges of each table that a round compares


class Busy(Exception):
    """Another round is running."""


class _Remembered(msgspec.Struct):
    """The leaves of a round. A change of timeline may lose commits, so leaves of two timelines cannot be compared."""

    timeline: str
    leaves: list[str]  # encoded


class _Damaged(Exception):
    """PostgreSQL cannot read a server's stored data."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"{node}: {reason}")
        self.node = node


class _Range(NamedTuple):
    """The leaves of a range, and the number of the snapshot that they were read in."""

    snapshot: int
    leaves: dict[int, Leaf]


@dataclass
class _Side:
    """One server in a comparison, and its leaves as last read."""

    name: str
    snapshot: Snapshot
    tell: Tell
    _ranges: dict[tuple[Table, int], _Range] = field(default_factory=dict)

    def leaves(self, table: Table, ranges: Sequence[int]) -> dict[int, Leaf]:
        """Leaves of some ranges of a table in the current snapshot, only of slots that have rows."""
        for part in ranges:
            known = self._ranges.get((table, part))
            if known is None or known.snapshot != self.snapshot.number:
                self._ranges[table, part] = self._read(table, part)
        return {slot: leaf for part in ranges for slot, leaf in self._ranges[table, part].leaves.items()}

    def tree(self, table: Table = COUNTER) -> Tree:
        """The tree of all leaves of a table as last read. Ranges that were never read are read now."""
        self.leaves(table, [part for part in range(digest.RANGES) if (table, part) not in self._ranges])
        self.tell(self.name, digest.RANGES, digest.RANGES)
        parts = (self._ranges[table, part] for part in range(digest.RANGES))
        return Tree.of({slot: leaf for part in parts for slot, leaf in part.leaves.items()})

    def read_rows(self, table: Table) -> int:
        """How many rows of a table were in the leaves as last read."""
        parts = [part for (read, _), part in self._ranges.items() if read == table]
        return sum(leaf.rows for part in parts for leaf in part.leaves.values())

    def _read(self, table: Table, part: int) -> _Range:
        self.tell(self.name, part, digest.RANGES)
        bounds = {"first": part * digest.SLOTS_EACH, "behind": (part + 1) * digest.SLOTS_EACH}
        with self._reading():
            found = self.snapshot.conn.execute(_query("slots", table), bounds).fetchall()
        leaves = {
            slot: Leaf(rows, int(versions), int(hashed, 2).to_bytes(32, "big"))
            for slot, rows, versions, hashed in found
        }
        return _Range(self.snapshot.number, leaves)

    def rows(self, table: Table, slots: list[int]) -> Generator[Row, None, None]:
        """Yield the rows of some slots by key. Close this generator before the next call."""
        with self._reading(), self.snapshot.conn.cursor(name="rows") as cursor:
            cursor.itersize = _FETCH
            yield from cursor.execute(_query("rows", table), {"slots": slots})

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.DataCorrupted as error:
            raise _Damaged(self.name, str(error).strip()) from error


def _untold(_node: str, _done: int, _of: int) -> None:
    pass


def compare(shard: int, tell: Tell = _untold) -> Round:
    """Compare a shard's primary with each replica, then store and publish the result. Raises `Busy`,
    `ShardUnavailable`."""
    try:
        with ExitStack() as stack:
            done = _Comparing(shard, stack, tell).run()
    except (psycopg.Error, _Damaged) as error:
        raise ShardUnavailable(shard, f"its primary: {str(error).strip()}") from error
    comparisons.keep(done)
    comparisons.publish(done)
    return done


def read(shard: int, server: patroni.Member, tell: Tell = _untold) -> int:
    """Read every row of a server, as a comparison does. Returns how many there are. Raises `ShardUnavailable` if some
    cannot be read."""
    try:
        with nodes.connect(shard, server, timeout=_STATEMENT_SECONDS) as conn:
            conn.execute(SESSION)
            side = _Side(server.name, Snapshot(conn), tell)
            return sum(side.tree(table).rows for table in tables.known())
    except (psycopg.Error, _Damaged) as error:
        raise ShardUnavailable(shard, f"{server.name}: {str(error).strip()}") from error


class _Comparing:
    """One round. Its connections close with `stack`."""

    def __init__(self, shard: int, stack: ExitStack, tell: Tell) -> None:
        self.shard, self.stack, self.tell = shard, stack, tell
        self._due: dict[Table, Collection[int]] = {COUNTER: range(digest.RANGES)}
        self.at, self._started = datetime.now(UTC), time.monotonic()

    def run(self) -> Round:
        found = {patroni.name_of(node): self._connect(node) for node in nodes.of(self.shard)}
        primary = self._primary(found)
        turns = Turns(self.shard, "copies")
        for table in tables.known()[1:]:
            self._due[table] = turns.due(primary.snapshot.conn, table.name)
        compared = [self._compare(primary, name, conn) for name, conn in found.items() if name != primary.name]
        if all(one.equal for one in compared):
            turns.end()
        tree = primary.tree()
        return Round(
            shard=self.shard,
            at=self.at,
            seconds=round(time.monotonic() - self._started, 3),
            primary=primary.name,
            version=primary.snapshot.version,
            lsn=primary.snapshot.lsn,
            digest=tree.root.hex(),
            counters=tree.rows,
            comparisons=tuple(compared),
            altered=tuple(self._altered(primary, tree)),
            rows={table.name: primary.read_rows(table) for table in self._due if table != COUNTER},
        )

    def _connect(self, node: Any) -> tuple[psycopg.Connection[Any], bool] | str:
        """Returns the connection and whether its server is a replica, or the error's text."""
        try:
            conn = self.stack.enter_context(nodes.connect(self.shard, node, timeout=_STATEMENT_SECONDS))
            conn.execute(SESSION)
            return conn, conn.execute(CONNECTED).fetchall()[0][0]
        except psycopg.Error as error:
            return str(error).strip()

    def _primary(self, found: dict[str, Any]) -> _Side:
        for name, connected in found.items():
            if not isinstance(connected, str) and not connected[1]:
                if not connected[0].execute(LOCK, (LOCK_ID,)).fetchall()[0][0]:
                    raise Busy(f"shard {self.shard} is being compared already")
                return _Side(name, Snapshot(connected[0]), self.tell)
        raise ShardUnavailable(self.shard, "none of its servers is a primary")

    def _compare(self, primary: _Side, name: str, connected: tuple[psycopg.Connection[Any], bool] | str) -> Comparison:
        try:
            if isinstance(connected, str):
                return Comparison(name, None, datetime.now(UTC), connected)
            if not connected[1]:
                return Comparison(name, None, datetime.now(UTC), "is a primary, too")
            replica = _Side(name, Snapshot(connected[0]), self.tell)
            return self._beside(primary, replica)
        except _Damaged as error:
            if error.node == primary.name:
                raise
            return Comparison(name, False, datetime.now(UTC), str(error))
        except (NeverMet, psycopg.Error) as error:
            if primary.snapshot.conn.closed:
                raise
            return Comparison(name, None, datetime.now(UTC), str(error).strip())

    def _beside(self, primary: _Side, replica: _Side) -> Comparison:
        count = len(primary.snapshot.points)
        if count not in lanes.COUNTS:
            raise NeverMet(f"apply_state has a row for each of {count} lanes; their number must be {lanes.RULE}")
        found = [
            difference
            for lane in range(count)
            for difference in _differing_twice(primary, replica, lane, count, self._due)
        ]
        found.sort(key=attrgetter("table", "key"))
        tree = replica.tree()
        return Comparison(
            node=replica.name,
            equal=not found,
            at=datetime.now(UTC),
            version=replica.snapshot.version,
            lsn=replica.snapshot.lsn,
            digest=tree.root.hex(),
            counters=tree.rows,
            differing=min(len(found), MOST_COUNTED),
            differences=tuple(found[:MOST_NAMED]),
        )

    def _altered(self, primary: _Side, tree: Tree) -> list[int]:
        """Store this round's leaves. Returns slots that changed since the last round, but not by Tally."""
        timeline = primary.snapshot.conn.execute(TIMELINE).fetchall()[0][0]
        before = comparisons.load(_leaves_key(self.shard), _Remembered)
        comparisons.store(_leaves_key(self.shard), _Remembered(timeline, [leaf.encoded() for leaf in tree.leaves]))
        if before is None or before.timeline != timeline:
            return []
        return digest.altered([Leaf.decoded(text) for text in before.leaves], tree.leaves)


def _differing_twice(primary: _Side, replica: _Side, lane: int, count: int, due: Due) -> list[Difference]:
    """Rows of a lane that differ at a moment both servers show, and again after the replica has caught up."""
    seconds, ranges = settings.TALLY.reconcile_seconds, digest.ranges_of(lane, count)
    parts = {table: [part for part in ranges if part in some] for table, some in due.items()}
    meet(primary.snapshot, replica.snapshot, lane, count, seconds)
    first = {(found.table, found.key) for found in _differing(primary, replica, parts)}
    if not first:
        return []
    catch_up(primary.snapshot, replica.snapshot, lane, count, seconds)
    return [found for found in _differing(primary, replica, parts) if (found.table, found.key) in first]


def _differing(primary: _Side, replica: _Side, parts: Mapping[Table, Sequence[int]]) -> list[Difference]:
    """Rows of some ranges that differ, 10,000 of a table at most. Reads rows only of slots whose leaves differ."""
    found: list[Difference] = []
    for table, ranges in parts.items():
        slots = digest.differing(primary.leaves(table, ranges), replica.leaves(table, ranges))
        if slots:
            with closing(primary.rows(table, slots)) as here, closing(replica.rows(table, slots)) as there:
                found += islice(digest.differences(here, there, table.name), MOST_COUNTED)
    return found


def _query(name: str, table: Table) -> sql.Composed:
    """A query of the folder `sql`, for this table."""
    key, columns = (list(map(sql.Identifier, some)) for some in (table.key, table.columns))
    texts = [sql.SQL("coalesce({}::text, '')").format(column) for column in (*key, *columns)]
    comma = sql.SQL(", ")
    return _SQL[name].format(
        table=sql.Identifier(table.name),
        version=sql.Identifier(table.version),
        key=comma.join(key),
        columns=comma.join(columns),
        row=comma.join(texts),
    )


def _leaves_key(shard: int) -> str:
    return f"reconciliation:{shard}:leaves"
