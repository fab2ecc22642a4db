"""How a value is asked for: cache → replica → primary, and where the answer came from.

A shard's trouble stays with its keys: `ShardUnavailable` names it, cached keys are answered all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from heapq import merge
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar

import psycopg

from counters import cache
from sharding import breakers, databases, topology
from sharding.slots import slot_of

T = TypeVar("T")
Consistency = Literal["eventual", "primary"]
Source = Literal["cache", "replica", "primary"]

# One index probe a key; and how far the node is, in the same snapshot.
GET = """
SELECT key, value, version FROM counter
JOIN unnest(%s::text[], %s::smallint[]) AS wanted (key, slot) USING (key, slot)
UNION ALL SELECT NULL, 0, last_version FROM apply_state"""
# The prefix as a range, so that each of 16 partitions is one index range scan of `limit` rows at most.
LIST = "SELECT key, value, version FROM counter WHERE key > %s AND key >= %s AND key < %s ORDER BY key LIMIT %s"
_LAST = "\x7f"  # after every character of a key


class Counter(NamedTuple):
    """A counter as it was read; version 0 and value 0 if it was never written."""

    key: str
    value: int
    version: int
    source: Source
    shard: int

    @property
    def updated_at(self) -> datetime | None:
        """When the operation that changed it last was accepted: a version is a time in microseconds."""
        return datetime.fromtimestamp(self.version / 1e6, UTC) if self.version else None


def get(key: str, consistency: Consistency = "eventual") -> Counter:
    """One counter. Raises `ShardUnavailable`."""
    return get_many([key], consistency)[0]


def get_many(keys: Sequence[str], consistency: Consistency = "eventual") -> list[Counter]:
    """Many counters, in the order asked for. Raises `ShardUnavailable`."""
    map_in_force = topology.current()
    found: dict[str, Counter] = {}
    if consistency == "eventual":
        for key, (value, version) in cache.get_many(keys).items():
            found[key] = Counter(key, value, version, "cache", map_in_force.shard_of(key))
    missing = map_in_force.by_shard(key for key in keys if key not in found)
    for shard, wanted in missing.items():
        found |= {counter.key: counter for counter in _read_shard(shard, wanted, consistency)}
    return [found[key] for key in keys]


def _read_shard(shard: int, keys: list[str], consistency: Consistency) -> list[Counter]:
    def query(conn: psycopg.Connection[Any]) -> dict[str | None, tuple[int, int]]:
        return {key: (value, version) for key, value, version in conn.execute(GET, (keys, [slot_of(key) for key in keys]))}

    rows, source = ask(shard, query, replicas=consistency == "eventual")
    counters = [Counter(key, *rows.get(key, (0, 0)), source, shard) for key in keys]
    _, through = rows[None]
    cache.fill(shard, [(one.key, one.value, one.version) for one in counters], through)
    return counters


def ask(shard: int, query: Callable[[psycopg.Connection[Any]], T], *, replicas: bool = True) -> tuple[T, Source]:
    """Run a query on a replica of a shard, or its primary if none answers. Raises `ShardUnavailable`."""
    replica = databases.replica(shard)
    if replicas and replica:
        try:
            return breakers.call(replica, lambda: _on(replica, query)), "replica"
        except databases.ShardUnavailable:
            pass  # logged and counted by the breaker
    primary = databases.primary(shard)
    return breakers.call(primary, lambda: _on(primary, query)), "primary"


def _on(alias: str, query: Callable[[psycopg.Connection[Any]], T]) -> T:
    with databases.connection(alias) as conn:
        return query(conn)


def listing(prefix: str, *, after: str = "", limit: int, consistency: Consistency = "eventual") -> list[Counter]:
    """Written counters whose key starts with `prefix`, in byte order, from behind `after`. Raises `ShardUnavailable`."""
    shards = sorted(set(topology.current().owners))
    pages = [listing_of(shard, prefix, after=after, limit=limit, consistency=consistency) for shard in shards]
    return list(islice(merge(*pages), limit))


def listing_of(shard: int, prefix: str, *, after: str = "", limit: int, consistency: Consistency = "eventual") -> list[Counter]:
    """One shard's part of a `listing`. Raises `ShardUnavailable`."""

    def query(conn: psycopg.Connection[Any]) -> list[tuple[str, int, int]]:
        return conn.execute(LIST, (after, prefix, prefix + _LAST, limit)).fetchall()

    rows, source = ask(shard, query, replicas=consistency == "eventual")
    return [Counter(*row, source, shard) for row in rows]
