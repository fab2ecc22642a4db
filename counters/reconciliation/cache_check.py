"""Compare the cache's entries with the primaries, and repair them.

An entry is *wrong* if the counter never had it: not a number, another value at the same version, or a version that the
primary does not have. It is *stale* if the primary is ahead (a worker died before it could put the new value, or a
lagging replica filled the entry); it would expire within a minute. Between a commit and its refresh both are normal, so
only an entry that is unchanged a second later counts.

Repairs keep I5: the script that compares versions overwrites a stale entry, and a wrong entry is deleted only if it is
still unchanged.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import psycopg
from django.conf import settings
from prometheus_client import Counter
from redis.exceptions import RedisError

from counters.keys import is_stored
from counters.reading import cache, reads
from counters.reading.cache import Value
from sharding import databases, topology

STALE = Counter("tally_cache_stale_total", "Cached values that were older than the primary's, and refreshed", ["shard"])
WRONG = Counter("tally_cache_wrong_total", "Cached values that the primary never had, and that were deleted", ["shard"])

MOST_NAMED = 100
_AT_A_TIME = 1000
_SECOND_LOOK_SECONDS = 1.0
Tell = Callable[[int], None]  # called with the number of entries just checked


@dataclass
class CacheCheck:
    """One shard's cache entries: how many were checked, stale (refreshed) and wrong (deleted), and up to 100 of the
    deleted keys. `detail`: why the check is incomplete."""

    checked: int = 0
    stale: int = 0
    wrong: int = 0
    keys: list[str] = field(default_factory=list)
    detail: str = ""


class _Found(NamedTuple):
    """Wrong entries, and the primary's values for stale ones. `through`: the version up to which each lane had applied
    everything then."""

    wrong: dict[str, bytes]
    newer: dict[str, Value]
    through: dict[int, int]

    def keys(self) -> set[str]:
        return {*self.wrong, *self.newer}


def judge(entry: bytes, value: int, version: int) -> Literal["right", "stale", "wrong"]:
    """Judge an entry by the value and version that the primary returned after the entry was read."""
    try:
        cached = cache.parsed(entry)
    except ValueError:
        return "wrong"
    if cached.version == version:
        return "right" if cached.value == value else "wrong"
    return "stale" if 0 <= cached.version < version else "wrong"


def check(shards: Collection[int], tell: Tell) -> dict[int, CacheCheck]:
    """Check the whole cache for these shards, at a bounded rate, and repair it. Returns results by shard; errors are in
    `detail`."""
    checks = {shard: CacheCheck() for shard in shards}
    try:
        for entries in _at_rate(settings.TALLY.reconcile_cache_rate):
            _check_some(entries, checks)
            tell(len(entries))
    except (RedisError, topology.NoTopology) as error:
        for found in checks.values():
            found.detail = str(error)
    return checks


def _at_rate(rate: int) -> Iterator[dict[str, bytes]]:
    for entries in cache.all_entries(_AT_A_TIME):
        started = time.monotonic()
        yield entries
        time.sleep(max(0.0, len(entries) / rate - (time.monotonic() - started)))


def _check_some(entries: dict[str, bytes], checks: dict[int, CacheCheck]) -> None:
    for shard, keys in topology.current().by_shard(filter(is_stored, entries)).items():
        if shard in checks:
            try:
                _check_shard(shard, {key: entries[key] for key in keys}, checks[shard])
            except psycopg.Error as error:
                checks[shard].detail = f"its primary: {str(error).strip()}"


def _check_shard(shard: int, entries: dict[str, bytes], done: CacheCheck) -> None:
    done.checked += len(entries)
    first = _compare(shard, entries)
    if not first.keys():
        return
    time.sleep(_SECOND_LOOK_SECONDS)
    again = cache.entries(sorted(first.keys()))
    found = _compare(shard, {key: entry for key, entry in again.items() if entry == entries[key]})
    cache.fill(shard, list(found.newer.values()), found.through)
    cache.forget(found.wrong)
    done.stale += len(found.newer)
    done.wrong += len(found.wrong)
    done.keys += sorted(found.wrong)[: MOST_NAMED - len(done.keys)]
    STALE.labels(shard).inc(len(found.newer))
    WRONG.labels(shard).inc(len(found.wrong))


def _compare(shard: int, entries: Mapping[str, bytes]) -> _Found:
    (found, through), sorted_out = _primary(shard, list(entries)), defaultdict[str, list[str]](list)
    for key, entry in entries.items():
        sorted_out[judge(entry, *found.get(key, (0, 0)))].append(key)
    wrong = {key: entries[key] for key in sorted_out["wrong"]}
    return _Found(wrong, {key: (key, *found[key]) for key in sorted_out["stale"]}, through)


def _primary(shard: int, keys: list[str]) -> reads.Rows:
    with databases.connection(databases.primary(shard)) as conn:
        return reads.rows_of(conn, keys)
