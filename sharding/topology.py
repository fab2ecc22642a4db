"""The topology in force: the versioned slot → shard map. Every shard holds a copy, in its `shard_state` row.

The copies are what makes it safe (I6): a worker reads its shard's own inside the applying transaction. They also make it available:
a process that starts while some shard is down learns the map from any other. The highest version wins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import psycopg
import structlog
from django.conf import settings

from sharding import databases, ring
from sharding.slots import slot_of

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

    def owns(self, shard: int, slots: Iterable[int]) -> bool:
        """Whether a shard owns all of these slots."""
        return all(self.owners[slot] == shard for slot in set(slots))


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
    """The shard's own copy; none before it was set up. Raises `WrongShard` if the settings name another database than they think."""
    question = ask(shard)
    return question.answer(conn.execute(*question.query).fetchone())


@dataclass(frozen=True)
class Question:
    """`read` for whoever asks other things along with it: run `query`, and give its row to `answer`."""

    shard: int
    known: Topology | None

    @property
    def query(self) -> tuple[str, tuple[int]]:
        return READ, (self.known.version if self.known else -1,)

    def answer(self, row: tuple[Any, ...] | None) -> Topology | None:
        """Raises `WrongShard`."""
        if row is None:
            return None
        shard, version, owners = row
        if shard != self.shard:
            where = f"the database of shard {self.shard} says that it is shard {shard}"
            raise WrongShard(f"{where}: TALLY_SHARDS is in another order than at first")
        if self.known and version == self.known.version:
            return self.known
        _copies[shard] = found = Topology(version, tuple(owners))
        return found


def ask(shard: int) -> Question:
    """The question for a shard's own copy. The owners are sent only if their version is not the one that was read last."""
    return Question(shard, _copies.get(shard))


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
