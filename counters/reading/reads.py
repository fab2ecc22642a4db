"""Reads of counters: cache → replica → primary. Each counter names its source.

Replicas share the reads. One that lags is left out (`replication.lag`), unless no other server answers. A failed shard
only affects its own keys: `ShardUnavailable` names it, and cached keys are still answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from heapq import merge
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar

import psycopg
from django.conf import settings
from prometheus_client import Counter as Metric

from counters.reading import cache
from counters.rows import WANTED, wanted
from replication import lag
from runtime.breakers import BeingTried
from sharding import breakers, databases, nodes, topology
from sharding.databases import left_out
from sharding.nodes import Address

T = TypeVar("T")
Consistency = Literal["eventual", "primary"]
Source = Literal["cache", "replica", "primary"]

# The rows and each lane's moment (`transaction._moment`), in the same snapshot.
GET = f"""
SELECT key, NULL, value, version FROM {WANTED}
UNION ALL SELECT NULL, lane, 0, last_version + spilled FROM apply_state"""  # noqa: S608 - a constant
# The prefix is a range, without what begins with a slash (of other rooms): two index range scans in each of 16 partitions,
# of `limit` rows at most, and one of them is empty if there is a prefix.
LIST = """
SELECT key, value, version FROM (
    (SELECT key, value, version FROM counter
    WHERE key > %(after)s AND key >= %(prefix)s AND key < least(%(behind)s COLLATE "C", '/') ORDER BY key LIMIT %(limit)s)
    UNION ALL
    (SELECT key, value, version FROM counter
    WHERE key > %(after)s AND key >= greatest(%(prefix)s COLLATE "C", '0') AND key < %(behind)s ORDER BY key LIMIT %(limit)s)
) AS page ORDER BY key LIMIT %(limit)s"""
QUERIES = Metric("tally_shard_queries_total", "Queries for counters that shards have answered", ["source"])
QUERIED = Metric("tally_shard_queried_keys_total", "Counters that these asked for", ["source"])
_TRIED_SECONDS = 0.5  # for a call that tries whether a shard is back
_STAY_SECONDS = 1.0
_GIVEN_SECONDS = 5.0  # for an answer of a given server, which an operator reads
_LAST = "\x7f"  # sorts after every character of a key


class Rows(NamedTuple):
    """What a server has: (value, version) by existing key, and the newest applied version by lane."""

    found: dict[str, tuple[int, int]]
    through: dict[int, int]


class Counter(NamedTuple):
    """A counter as it was read; version 0 and value 0 if it was never written."""

    key: str
    value: int
    version: int
    source: Source
    shard: int

    @property
    def updated_at(self) -> datetime | None:
        """When the last operation that changed it was accepted: a version is a time in microseconds."""
        return datetime.fromtimestamp(self.version / 1e6, UTC) if self.version else None


def get(key: str, consistency: Consistency = "eventual") -> Counter:
    """One counter. Raises `ShardUnavailable`."""
    return get_many([key], consistency)[0]


def of_entries(keys: Iterable[str], entries: Mapping[str, tuple[int, int]]) -> list[Counter]:
    """Counters from cache entries: (value, version) by key."""
    map_in_force = topology.current()
    return [Counter(key, *entries[key], "cache", map_in_force.shard_of(key)) for key in keys]


def get_many(keys: Sequence[str], consistency: Consistency = "eventual") -> list[Counter]:
    """Many counters, in the order of `keys`. Raises `ShardUnavailable`."""
    found: dict[str, Counter] = {}
    if consistency == "eventual":
        entries = cache.get_many(keys)
        found = {counter.key: counter for counter in of_entries(entries, entries)}
    missing = topology.current().by_shard(key for key in keys if key not in found)
    for shard, its_keys in missing.items():
        found |= {counter.key: counter for counter in of_shard(shard, its_keys, consistency)}
    return [found[key] for key in keys]


def of_shard(shard: int, keys: list[str], consistency: Consistency) -> list[Counter]:
    """Counters of one shard, in the order of `keys`, bypassing the cache. Raises `ShardUnavailable`."""
    rows, source = ask(shard, lambda conn: rows_of(conn, keys), replicas=consistency == "eventual")
    QUERIES.labels(source).inc()
    QUERIED.labels(source).inc(len(keys))
    return counters(keys, rows, source, shard)


def rows_of(conn: psycopg.Connection[Any], keys: Sequence[str]) -> Rows:
    """What this server has of some keys of its shard, in one snapshot."""
    rows = Rows({}, {})
    for key, lane, value, version in conn.execute(GET, wanted(keys)):
        if key is None:
            rows.through[lane] = version
        else:
            rows.found[key] = (value, version)
    return rows


def counters(keys: Sequence[str], rows: Rows, source: Source, shard: int) -> list[Counter]:
    """Counters from `rows_of`, in the order of `keys`. Also fills the cache."""
    found = [Counter(key, *rows.found.get(key, (0, 0)), source, shard) for key in keys]
    cache.fill(shard, [(one.key, one.value, one.version) for one in found], rows.through)
    return found


def ask(shard: int, query: Callable[[psycopg.Connection[Any]], T], *, replicas: bool = True) -> tuple[T, Source]:
    """Run a query on a shard's replica that does not lag, else on its primary; if that is down, on a lagging replica.

    With `replicas`, each of these may take at most half of `database_timeout_seconds`. Without, only the primary is
    asked. While another call finds out whether the shard is back, this one waits for that for a moment. Raises
    `ShardUnavailable`.
    """
    primary = databases.primary(shard)
    if not replicas:
        return breakers.call(primary, lambda: _on(primary, query)), "primary"
    until = time.monotonic() + _TRIED_SECONDS
    while True:
        try:
            return _ask_any(databases.replica(shard), primary, query)
        except databases.ShardUnavailable as error:
            if time.monotonic() > until or not isinstance(error.__cause__, BeingTried):
                raise
        time.sleep(_TRIED_SECONDS / 10)


def _ask_any(replica: str | None, primary: str, query: Callable[[psycopg.Connection[Any]], T]) -> tuple[T, Source]:
    """A replica, the primary, or a lagging replica. Raises `ShardUnavailable`."""
    seconds = settings.TALLY.database_timeout_seconds / 2
    lagging = False
    if replica:
        try:
            if found := breakers.call(replica, lambda: _on_fresh(replica, query, seconds)):
                return found
            lagging = True
        except databases.ShardUnavailable:
            pass  # logged and counted by the breaker
    try:
        return breakers.call(primary, lambda: _on(primary, query, seconds)), "primary"
    except databases.ShardUnavailable:
        if not (replica and lagging):
            raise
        return breakers.call(replica, lambda: _on(replica, query, seconds)), "replica"


def _on(alias: str, query: Callable[[psycopg.Connection[Any]], T], seconds: float | None = None) -> T:
    with databases.connection(alias, seconds) as conn:
        return query(conn)


def _on_fresh(alias: str, query: Callable[[psycopg.Connection[Any]], T], seconds: float) -> tuple[T, Source] | None:
    """The answer of a replica that does not lag, or of the primary if no replica runs; None if all lag.

    A connection to a lagging replica is closed in favour of another replica; one to the primary after a second, as a
    replica may be back; and one to a replica after its answer, if another one is the better choice by now.
    """
    while not left_out().has_all(alias):
        with databases.connection(alias, seconds) as conn:
            fit = lag.fitness(conn)
            if fit == "primary" and time.monotonic() - conn.opened > _STAY_SECONDS:
                conn.close()
            elif fit != "lagging":
                found = query(conn)
                if (
                    fit == "fresh"
                    and time.monotonic() - conn.opened > _STAY_SECONDS
                    and not databases.keeps(alias, conn)
                ):
                    conn.close()
                return found, "primary" if fit == "primary" else "replica"
            elif not left_out().has_all(alias):
                conn.close()
    return None


def listing(prefix: str, *, after: str = "", limit: int, consistency: Consistency = "eventual") -> list[Counter]:
    """Written counters whose key starts with `prefix`, in byte order, after the key `after`. Raises
    `ShardUnavailable`."""
    shards = sorted(set(topology.current().owners))
    pages = [listing_of(shard, prefix, after=after, limit=limit, consistency=consistency) for shard in shards]
    return list(islice(merge(*pages), limit))


def listing_of(
    shard: int, prefix: str, *, after: str = "", limit: int, consistency: Consistency = "eventual"
) -> list[Counter]:
    """One shard's part of a `listing`. Raises `ShardUnavailable`."""

    def query(conn: psycopg.Connection[Any]) -> list[tuple[str, int, int]]:
        return conn.execute(LIST, _page(prefix, after, limit)).fetchall()

    rows, source = ask(shard, query, replicas=consistency == "eventual")
    return [Counter(*row, source, shard) for row in rows]


def _page(prefix: str, after: str, limit: int) -> dict[str, Any]:
    return {"prefix": prefix, "behind": prefix + _LAST, "after": after, "limit": limit}


def listing_on(shard: int, server: Address, prefix: str, *, after: str = "", limit: int) -> list[Counter]:
    """As `listing_of`, of one given server, whatever its role and however far it is behind. Raises
    `ShardUnavailable`."""
    try:
        with nodes.connect(shard, server, timeout=_GIVEN_SECONDS) as conn:
            ((is_replica,),) = conn.execute("SELECT pg_is_in_recovery()").fetchall()
            rows: list[tuple[str, int, int]] = conn.execute(LIST, _page(prefix, after, limit)).fetchall()
    except psycopg.OperationalError as error:
        raise databases.ShardUnavailable(shard, f"this server does not answer: {str(error).strip()}") from error
    source: Source = "replica" if is_replica else "primary"
    return [Counter(*row, source, shard) for row in rows]
