"""The topology in force: the versioned slot → shard map. Every shard holds a copy, in its `shard_state` row.

The copies are what makes it safe (I6): a worker reads its shard's own inside the applying transaction. They also make it available:
a process that starts while some shard is down learns the map from any other. The highest version wins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import psycopg
import structlog
from django.conf import settings

from sharding import databases, ring
from sharding.slots import slot_of, slots_of

log = structlog.get_logger(__name__)

READ = "SELECT shard, topology_version, CASE WHEN topology_version = %s THEN NULL ELSE owners END FROM shard_state"
WRITE = """
INSERT INTO shard_state (shard, topology_version, owners) VALUES (%(shard)s, %(version)s, %(owners)s)
ON CONFLICT (singleton) DO UPDATE SET topology_version = excluded.topology_version, owners = excluded.owners
WHERE shard_state.topology_version < excluded.topology_version"""


class NoTopology(Exception):
    """No shard could tell the map: none is reachable, or none was ever set up (`manage.py migrate_all`)."""


@dataclass(frozen=True)
class Topology:
    """`owners[slot]` is the number of the shard that owns the slot."""

    version: int
    owners: tuple[int, ...]

    def shard_of(self, key: str) -> int:
        """The shard that owns a key."""
        return self.owners[slot_of(key)]

    def by_shard(self, keys: Iterable[str]) -> dict[int, list[str]]:
        """Keys grouped by their shard, order kept."""
        groups: dict[int, list[str]] = defaultdict(list)
        for key in keys:
            groups[self.shard_of(key)].append(key)
        return dict(groups)

    def foreign(self, shard: int, keys: Collection[str]) -> set[str]:
        """Those of the keys that another shard owns."""
        owned = all(self.owners[slot] == shard for slot in set(slots_of(keys)))
        return set() if owned else {key for key in keys if self.shard_of(key) != shard}


_current: Topology | None = None
_copies: dict[int, Topology] = {}  # by shard, as they were read last
_lock = Lock()


def shard_named(text: str) -> int | None:
    """The shard whose number this is, as one writes it; None if there is none."""
    return {str(shard): shard for shard in range(settings.TALLY.shard_count)}.get(text)


def current() -> Topology:
    """The map as this process knows it; read from the shards once. Raises `NoTopology`."""
    if _current is None:
        with _lock:
            return _current or reload()
    return _current


def reload() -> Topology:
    """Ask the shards again, and keep the highest version. Raises `NoTopology`."""
    global _current  # noqa: PLW0603 - one map per process
    found = [topology for shard in range(settings.TALLY.shard_count) if (topology := _read_any(shard))]
    if not found:
        raise NoTopology("no shard could tell the topology; is the cluster up, and was manage.py migrate_all run?")
    _current = max([*found, *([_current] if _current else [])], key=lambda topology: topology.version)
    return _current


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
    """The shard's own copy; none before it was set up. Raises `WrongShard` if the settings name another database than they think.

    The owners are sent only if their version is not the one that was read last: the worker asks in each transaction.
    """
    known = _copies.get(shard)
    row = conn.execute(READ, (known.version if known else -1,)).fetchone()
    if row is None:
        return None
    if row[0] != shard:
        raise WrongShard(f"the database of shard {shard} says that it is shard {row[0]}: TALLY_SHARDS is in another order than at first")
    if known is None or row[1] != known.version:
        known = _copies[shard] = Topology(version=row[1], owners=tuple(row[2]))
    return known


class WrongShard(Exception):
    """The settings point at another shard's database."""


def put_in_force(shards: int) -> Topology:
    """Give every shard the map: the one that some shard has already, or the ring's first plan. Raises `WrongShard`, `ValueError`."""
    known = []
    for shard in range(shards):
        with databases.connection(databases.primary(shard)) as conn:
            if topology := read(conn, shard):
                known.append(topology)
    topology = max(known, key=lambda one: one.version, default=Topology(1, tuple(ring.plan(shards))))
    if max(topology.owners) >= shards:
        raise ValueError(f"the topology in force names shard {max(topology.owners)}, but TALLY_SHARDS has {shards} only")
    for shard in range(shards):
        with databases.connection(databases.primary(shard)) as conn:
            conn.execute(WRITE, {"shard": shard, "version": topology.version, "owners": list(topology.owners)})
    return topology
