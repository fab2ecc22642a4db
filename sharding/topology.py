"""The topology in force: the versioned map of slots to shards and lanes. Every shard holds a copy in its `shard_state`
row.

The copies make the map safe (I6): a worker reads its own shard's copy inside the applying transaction. They also make
it available: a process that starts while a shard is down reads the map from another. The highest version wins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import Any

import psycopg
import structlog
from django.conf import settings

from runtime.resources import owned
from sharding import databases, lanes, ring
from sharding.lanes import Lane
from sharding.slots import slot_of, slots_of

log = structlog.get_logger(__name__)

READ = (
    "SELECT shard, topology_version, lanes, CASE WHEN topology_version = %s THEN NULL ELSE owners END FROM shard_state"
)
WRITE = """
INSERT INTO shard_state (shard, topology_version, owners, lanes) VALUES (%(shard)s, %(version)s, %(owners)s, %(lanes)s)
ON CONFLICT (singleton) DO UPDATE SET topology_version = excluded.topology_version, owners = excluded.owners, lanes = excluded.lanes
WHERE shard_state.topology_version < excluded.topology_version RETURNING lanes"""
LOCK_LANES = "SELECT pg_advisory_xact_lock(%s, lane) FROM generate_series(0, %s) AS lane"
# Every lane starts at the newest versions of all lanes before the change: no operation is older than its slots' state.
GIVE_LANES = """
INSERT INTO apply_state (lane, last_version, last_set_version, spilled, spilled_version)
SELECT given.lane, max(last_version), max(last_set_version), max(spilled), max(spilled_version)
FROM generate_series(0, %s - 1) AS given (lane), apply_state GROUP BY 1
ON CONFLICT (lane) DO UPDATE SET last_version = excluded.last_version, last_set_version = excluded.last_set_version,
    spilled = excluded.spilled, spilled_version = excluded.spilled_version"""
TAKE_LANES = "DELETE FROM apply_state WHERE lane >= %s"


class NoTopology(Exception):
    """No shard returned the map: none is reachable, or none was ever set up (`manage.py migrate_all`)."""


@dataclass(frozen=True)
class Topology:
    """`owners[slot]` is the number of the shard that owns the slot; each shard has `lane_count` lanes."""

    version: int
    owners: tuple[int, ...]
    lane_count: int = 1

    @cached_property
    def lanes(self) -> tuple[Lane, ...]:
        """Every lane, in the order of the indices in `routes`."""
        shards = range(max(self.owners) + 1)
        return tuple(Lane(shard, number) for shard in shards for number in range(self.lane_count))

    @cached_property
    def routes(self) -> tuple[int, ...]:
        """For each slot, the index of its lane in `lanes`."""
        return tuple(
            shard * self.lane_count + lanes.number_of(slot, self.lane_count) for slot, shard in enumerate(self.owners)
        )

    def shard_of(self, key: str) -> int:
        """The shard that owns a key."""
        return self.owners[slot_of(key)]

    def lane_of(self, key: str) -> Lane:
        """The lane that a key belongs to."""
        return self.lanes[self.routes[slot_of(key)]]

    def lanes_of(self, shard: int) -> list[Lane]:
        """The lanes of a shard."""
        return [Lane(shard, number) for number in range(self.lane_count)]

    def by_shard(self, keys: Iterable[str]) -> dict[int, list[str]]:
        """Keys grouped by shard, in their order."""
        groups: dict[int, list[str]] = defaultdict(list)
        for key in keys:
            groups[self.shard_of(key)].append(key)
        return dict(groups)

    def by_lane(self, keys: Collection[str]) -> dict[Lane, list[str]]:
        """Keys grouped by lane, in their order."""
        groups: dict[int, list[str]] = defaultdict(list)
        for key, slot in zip(keys, slots_of(keys), strict=True):
            groups[self.routes[slot]].append(key)
        return {self.lanes[route]: group for route, group in groups.items()}

    def owns(self, lane: Lane, slots: Iterable[int]) -> bool:
        """Whether all of these slots belong to a lane, whichever of its queues this is."""
        route = lane.shard * self.lane_count + lane.number
        return lane.number < self.lane_count and all(self.routes[slot] == route for slot in set(slots))


class _Known:
    """What this process knows of the map."""

    def __init__(self) -> None:
        self.current: Topology | None = None
        self.copies: dict[int, Topology] = {}  # by shard, as last read
        self.loading = Lock()


@owned
def _known() -> _Known:
    return _Known()


def shard_named(text: str) -> int | None:
    """The shard with this number, written in plain decimal; None if there is none."""
    return {str(shard): shard for shard in range(settings.TALLY.shard_count)}.get(text)


def current() -> Topology:
    """The map as this process knows it. The first call reads it from the shards. Raises `NoTopology`."""
    known = _known()
    if known.current is None:
        with known.loading:
            return known.current or reload()
    return known.current


def is_loaded() -> bool:
    """Whether this process knows the map."""
    return _known().current is not None


def reload() -> Topology:
    """Read the map from the shards again and keep the highest version. Raises `NoTopology`."""
    known = _known()
    found = [topology for shard in range(settings.TALLY.shard_count) if (topology := _read_any(shard))]
    if not found:
        raise NoTopology("no shard could tell the topology; is the cluster up, and was manage.py migrate_all run?")
    newest = max([*found, *([known.current] if known.current else [])], key=lambda topology: topology.version)
    known.current = newest
    return newest


def _read_any(shard: int) -> Topology | None:
    for alias in filter(None, (databases.replica(shard), databases.primary(shard))):
        try:
            with databases.connection(alias) as conn:
                if topology := read(conn, shard):
                    return topology
        except psycopg.Error as error:
            log.warning("topology_unread", database=alias, error=str(error).strip())
    return None


def read(conn: psycopg.Connection[Any], shard: int) -> Topology | None:
    """The shard's own copy; None before it is set up. Raises `WrongShard` if the database belongs to another shard."""
    question = ask(shard)
    return question.answer(conn.execute(*question.query).fetchone())


@dataclass(frozen=True)
class Question:
    """`read` as part of a larger exchange: the caller runs `query` and passes its row to `answer`."""

    shard: int
    known: Topology | None

    @property
    def query(self) -> tuple[str, tuple[int]]:
        return READ, (self.known.version if self.known else -1,)

    def answer(self, row: tuple[Any, ...] | None) -> Topology | None:
        """As `read`. Raises `WrongShard`."""
        if row is None:
            return None
        shard, version, lane_count, owners = row
        if shard != self.shard:
            where = f"the database of shard {self.shard} says that it is shard {shard}"
            raise WrongShard(f"{where}: TALLY_SHARDS is in another order than at first")
        if self.known and version == self.known.version:
            return self.known
        found = _known().copies[shard] = Topology(version, tuple(owners), lane_count or 1)
        return found


def lane_count(shard: int) -> int:
    """The number of a shard's lanes in its own copy, as this process last read it; 1 before that."""
    copy = _known().copies.get(shard)
    return copy.lane_count if copy else 1


def ask(shard: int) -> Question:
    """The question for a shard's own copy. The shard sends the owners only if their version differs from the last one
    read."""
    return Question(shard, _known().copies.get(shard))


class WrongShard(Exception):
    """The settings point to another shard's database."""


def put_in_force(shards: int, lane_count: int) -> Topology:
    """Write the map to every shard: the newest that a shard has, or else the ring's first plan with `lane_count` lanes.

    Raises `WrongShard`, and `ValueError` if the map names a shard that the settings lack, or a shard is from before there
    were lanes: nothing reads its journal any more.
    """
    if _is_without_lanes(shards):
        raise ValueError(
            "a shard is from before there were lanes: run migrate_all of commit 2c52639 first, then this one"
        )
    known = _of_shards(shards)
    topology = max(known, key=lambda one: one.version, default=Topology(1, tuple(ring.plan(shards)), lane_count))
    if max(topology.owners) >= shards:
        raise ValueError(
            f"the topology in force names shard {max(topology.owners)}, but TALLY_SHARDS has {shards} only"
        )
    _write(topology, shards)
    return topology


def _of_shards(shards: int) -> list[Topology]:
    known = []
    for shard in range(shards):
        with databases.connection(databases.primary(shard)) as conn:
            if topology := read(conn, shard):
                known.append(topology)
    return known


def _write(topology: Topology, shards: int) -> None:
    values = {"version": topology.version, "owners": list(topology.owners), "lanes": topology.lane_count}
    for shard in range(shards):
        with databases.connection(databases.primary(shard)) as conn, conn.transaction():
            conn.execute(LOCK_LANES, (lanes.LOCK_ID, lanes.MOST - 1))
            if conn.execute(WRITE, {"shard": shard, **values}).fetchall():
                conn.execute(GIVE_LANES, (topology.lane_count,))
                conn.execute(TAKE_LANES, (topology.lane_count,))


def _is_without_lanes(shards: int) -> bool:
    for shard in range(shards):
        with databases.connection(databases.primary(shard)) as conn:
            if conn.execute("SELECT FROM shard_state WHERE lanes IS NULL").fetchone() is not None:
                return True
    return False


def change_lanes(shards: int, lane_count: int) -> Topology:
    """Put the same map in force with another number of lanes. The journals must be empty and closed: see
    `counters.apply.lane_count`. Raises `ValueError`."""
    before = max(_of_shards(shards), key=lambda one: one.version)
    after = Topology(before.version + 1, before.owners, lanes.check(lane_count))
    _write(after, shards)
    return after
