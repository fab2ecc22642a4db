"""A page of counters from all shards, for people: a shard that is away leaves its rows out instead of spoiling the page."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import merge
from itertools import islice
from typing import Any

import psycopg

from counters import reads
from counters.reads import Counter
from sharding import topology
from sharding.databases import ShardUnavailable


@dataclass(frozen=True, slots=True)
class Page:
    """Counters in byte order of their keys. `more`: others follow. `away`: numbers of shards whose rows are missing."""

    counters: list[Counter]
    more: bool
    away: list[int]


def by_prefix(prefix: str, *, after: str, limit: int) -> Page:
    """Up to `limit` written counters whose key starts with `prefix`, from behind the key `after`. Raises `NoTopology`."""
    found: list[list[Counter]] = []
    away: list[int] = []
    for shard in sorted(set(topology.current().owners)):
        try:
            found.append(_of_shard(shard, prefix, after, limit + 1))
        except ShardUnavailable:  # logged and counted by the breaker
            away.append(shard)
    rows = list(islice(merge(*found), limit + 1))
    return Page(rows[:limit], len(rows) > limit, away)


def by_key(key: str) -> Page:
    """One counter, written or not. Raises `NoTopology`."""
    try:
        return Page([reads.get(key)], more=False, away=[])
    except ShardUnavailable as error:
        return Page([], more=False, away=[error.shard])


def _of_shard(shard: int, prefix: str, after: str, limit: int) -> list[Counter]:
    last = prefix + "\x7f"  # behind every key with the prefix

    def query(conn: psycopg.Connection[Any]) -> list[tuple[str, int, int]]:
        return conn.execute(reads.LIST, (after, prefix, last, limit)).fetchall()

    rows, source = reads.ask(shard, query)
    return [Counter(*row, source, shard) for row in rows]
