"""Anti-entropy: the counters of a shard's primary compared with each replica's, by digest, while writes go on.

Streaming copies every change; this finds what it cannot: a damaged page, a restored backup, a change by hand, a bug. A round computes the
digest tree on both servers in SQL, in snapshots of the same moment (`snapshots`), and reads rows only of slots that differ. What differs
is looked at a second time when the replica has replayed all that the primary wrote in between: a change by hand on the primary is
no transaction of ours, and may lie between two snapshots. Only what differs twice is reported.

The results are kept in the cache's Redis for whoever wants to see them (`latest`). The mend for a replica that differs is
Patroni's reinitialise: the node is copied anew from its primary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from django.conf import settings

from replication import digest, nodes, rounds
from replication.digest import Difference, Leaf, Row, Tree
from replication.rounds import Comparison, Round, latest
from replication.snapshots import NeverMet, Snapshot, catch_up, meet
from sharding.databases import ShardUnavailable

__all__ = ["Busy", "Comparison", "Round", "compare", "latest"]

MOST_NAMED = 100
MOST_COUNTED = 10_000
LOCK = "SELECT pg_try_advisory_lock(%s)"
LOCK_ID = 0x7A12  # one round of a shard at a time; it goes with the connection
CONNECTED = "SELECT pg_is_in_recovery()"
SESSION = "SET max_parallel_workers_per_gather = 0; SET jit = off; SET application_name = 'reconciliation'"
TIMELINE = "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
_SQL = {path.stem: path.read_text() for path in (Path(__file__).parent / "sql").glob("*.sql")}
_STATEMENT_SECONDS = 300.0  # for a sixteenth of a shard
_FETCH = 5000

Tell = Callable[[str, int, int], None]  # (node, ranges done, ranges in all)


class Busy(Exception):
    """Another process compares this shard just now."""


class _Remembered(msgspec.Struct):
    """The leaves of a round. On another timeline commits may have been lost, so those say nothing about this one."""

    timeline: str
    leaves: list[str]  # encoded


class _Damaged(Exception):
    """PostgreSQL cannot read what a server has stored."""

    def __init__(self, node: str, reason: str) -> None:
        super().__init__(f"{node}: {reason}")
        self.node = node


@dataclass
class _Side:
    """One server in a comparison, its tree computed when wanted."""

    name: str
    snapshot: Snapshot
    tell: Tell
    _tree: Tree | None = field(default=None)
    _of: int = 0  # number of the snapshot that it is of

    def tree(self) -> Tree:
        if self._tree is None or self._of != self.snapshot.number:
            self._tree, self._of = Tree.of(dict(self._leaves())), self.snapshot.number
        return self._tree

    def _leaves(self) -> Iterator[tuple[int, Leaf]]:
        for part in range(digest.RANGES):
            self.tell(self.name, part, digest.RANGES)
            bounds = {"first": part * digest.SLOTS_EACH, "behind": (part + 1) * digest.SLOTS_EACH}
            with self._reading():
                found = self.snapshot.conn.execute(_SQL["slots"], bounds).fetchall()
            for slot, rows, versions, hashed in found:
                yield slot, Leaf(rows, int(versions), int(hashed, 2).to_bytes(32, "big"))
        self.tell(self.name, digest.RANGES, digest.RANGES)

    def rows(self, slots: list[int]) -> Iterator[Row]:
        """Rows of some slots in the order of their keys."""
        with self._reading(), self.snapshot.conn.cursor(name="rows") as cursor:
            cursor.itersize = _FETCH
            yield from cursor.execute(_SQL["rows"], {"slots": slots})

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.DataCorrupted as error:
            raise _Damaged(self.name, str(error).strip()) from error


def _untold(_node: str, _done: int, _of: int) -> None:
    pass


def compare(shard: int, tell: Tell = _untold) -> Round:
    """Compare a shard's primary with each of its replicas now, and keep the result. Raises `Busy`, `ShardUnavailable`."""
    try:
        with ExitStack() as stack:
            done = _Comparing(shard, stack, tell).run()
    except (psycopg.Error, _Damaged) as error:
        raise ShardUnavailable(shard, f"its primary: {str(error).strip()}") from error
    rounds.keep(done)
    rounds.publish(done)
    return done


class _Comparing:
    """One round: its connections live as long as the stack."""

    def __init__(self, shard: int, stack: ExitStack, tell: Tell) -> None:
        self.shard, self.stack, self.tell = shard, stack, tell
        self.at, self._started = datetime.now(UTC), time.monotonic()

    def run(self) -> Round:
        found = {nodes.name(node): self._connect(node) for node in nodes.all_of(self.shard)}
        primary = self._primary(found)
        compared = [self._compare(primary, name, conn) for name, conn in found.items() if name != primary.name]
        tree = primary.tree()
        return Round(
            shard=self.shard,
            at=self.at,
            seconds=round(time.monotonic() - self._started, 3),
            primary=primary.name,
            version=primary.snapshot.point.version,
            lsn=primary.snapshot.lsn,
            digest=tree.root.hex(),
            counters=tree.rows,
            comparisons=tuple(compared),
            altered=tuple(self._altered(primary, tree)),
        )

    def _connect(self, node: Any) -> tuple[psycopg.Connection[Any], bool] | str:
        """The connection, and whether it is a replica's; or what is wrong."""
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
        seconds = settings.TALLY.reconcile_seconds
        meet(primary.snapshot, replica.snapshot, seconds)
        found: list[Difference] = []
        if slots := digest.differing(primary.tree(), replica.tree()):
            first = {difference.key for difference in _differences(primary, replica, slots)}
            catch_up(primary.snapshot, replica.snapshot, seconds)
            found = [difference for difference in _differences(primary, replica, slots) if difference.key in first]
        return Comparison(
            node=replica.name,
            equal=not found,
            at=datetime.now(UTC),
            version=replica.snapshot.point.version,
            lsn=replica.snapshot.lsn,
            digest=replica.tree().root.hex(),
            counters=replica.tree().rows,
            differing=len(found),
            differences=tuple(found[:MOST_NAMED]),
        )

    def _altered(self, primary: _Side, tree: Tree) -> list[int]:
        """Slots that changed since the last round, but not by us; and remember this round's."""
        timeline = primary.snapshot.conn.execute(TIMELINE).fetchall()[0][0]
        before = rounds.load(_leaves_key(self.shard), _Remembered)
        rounds.store(_leaves_key(self.shard), _Remembered(timeline, [leaf.encoded() for leaf in tree.leaves]))
        if before is None or before.timeline != timeline:
            return []
        return digest.altered([Leaf.decoded(text) for text in before.leaves], tree.leaves)


def _differences(primary: _Side, replica: _Side, slots: list[int]) -> list[Difference]:
    return list(islice(digest.differences(primary.rows(slots), replica.rows(slots)), MOST_COUNTED))


def _leaves_key(shard: int) -> str:
    return f"reconciliation:{shard}:leaves"
