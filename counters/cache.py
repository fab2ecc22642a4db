"""The cache: values of counters in Redis, those that somebody reads.

A read puts an entry there, and so does a write whose result was asked for: whoever was told it reads it again. From then on the worker
refreshes it after each commit that changes it. I5 lives here: an entry carries its version, and the script that writes it compares.

The worker asks which of a transaction's keys are cached *before* it commits, and announces the version that it is about to commit
(`announce`). A fill tells how far the node was that it read from: if that is behind the announced version, the value may be about to
change without the worker knowing of the entry, and it is kept for a second only. So an entry is never older than that for long,
whatever lags, and a window of writes costs the cache nothing for counters that nobody reads.

Nothing here raises for a cache that is away: a read goes on to the replica; a value that the worker could not put is put later, and
an entry lives a minute at most, so even if that worker dies first, what the cache holds is soon true again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from django.conf import settings
from prometheus_client import Counter
from redis.commands.core import Script
from redis.exceptions import RedisError

from sharding.breakers import cache_redis

UNREFRESHED = Counter("tally_cache_unrefreshed_total", "Values that could not be put into the cache at once")
log = structlog.get_logger(__name__)

T = TypeVar("T")
Value = tuple[str, int, int]  # key, value, version
_PREFIX = "c:"
_BEHIND_SECONDS = 1  # life of a value that was read from a node that lags
_EVERYTHING = 2**53  # beyond every version
_CHUNK = 2000  # Lua's stack holds 8000
_MOST_LEFT = 100_000
_left: dict[str, Value] = {}


def _entry(key: str) -> str:
    return _PREFIX + key


def get_many(keys: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(value, version) of those keys that the cache has."""
    try:
        entries: list[bytes | None] = cache_redis().mget([_entry(key) for key in keys])  # type: ignore[assignment]
    except RedisError as error:
        log.debug("cache_unread", error=str(error))
        return {}
    found = {}
    for key, entry in zip(keys, entries, strict=True):
        with suppress(ValueError):  # what is no entry is none; reconciliation deletes it
            if entry is not None:
                found[key] = parsed(entry)
    return found


def fill(shard: int, values: Sequence[Value], through: int) -> None:
    """Keep what a read found on a node of a shard that had applied everything up to the version `through`."""
    try:
        _put(shard, values, settings.TALLY.cache_fill_ttl_seconds, through)
    except RedisError as error:
        log.debug("cache_unfilled", error=str(error))


def announce(shard: int, version: int, keys: Sequence[str]) -> list[str]:
    """Before a commit of these keys: those that are to be refreshed after it (all of them if the cache does not answer).

    `version`: the newest of the transaction, 0 for none.
    """
    stale: list[str] = []
    try:
        for chunk in _chunks(keys):
            stale += [chunk[place - 1] for place in _run("announce", shard, [version, msgspec.msgpack.encode(chunk)])]
    except RedisError as error:
        log.debug("cache_unasked", error=str(error))
        return list(keys)
    return stale


def refresh(shard: int, values: Sequence[Value]) -> None:
    """Put what a transaction has written, and what earlier ones could not put. Not thread-safe: the applier's."""
    waiting = [*_left.values(), *values]
    try:
        _put(shard, waiting, settings.TALLY.cache_ttl_seconds, _EVERYTHING)
        _left.clear()
    except RedisError as error:
        UNREFRESHED.inc(len(values))
        log.warning("cache_unrefreshed", values=len(values), error=str(error))
        _left.update({value[0]: value for value in values[: _MOST_LEFT - len(_left)]})


def entries(keys: Sequence[str]) -> dict[str, bytes]:
    """What the cache has of these keys, as it stands there. Raises `RedisError`."""
    found: list[bytes | None] = cache_redis().mget([_entry(key) for key in keys])  # type: ignore[assignment]
    return {key: entry for key, entry in zip(keys, found, strict=True) if entry is not None}


def all_entries(most: int) -> Iterator[dict[str, bytes]]:
    """Everything that the cache has while this goes on, about `most` at a time. Raises `RedisError`."""
    cursor = 0
    while True:
        found: tuple[int, list[bytes]] = cache_redis().scan(cursor, match=f"{_PREFIX}*", count=most)  # type: ignore[assignment]
        cursor, names = found
        keys = [name.decode(errors="replace").removeprefix(_PREFIX) for name in names]
        yield entries(keys) if keys else {}
        if cursor == 0:
            return


def forget(seen: Mapping[str, bytes]) -> int:
    """Delete entries unless they have changed since they were seen; how many. Raises `RedisError`."""
    return int(_script("forget")([_entry(key) for key in seen], list(seen.values()), cache_redis())) if seen else 0


def parsed(entry: bytes) -> tuple[int, int]:
    """(value, version) of an entry. Raises `ValueError` for what is none."""
    value, _, version = entry.partition(b" ")
    return int(value), int(version)


def _put(shard: int, values: Sequence[Value], ttl: int, through: int) -> None:
    for chunk in _chunks(values):
        fields = [field for key, value, version in chunk for field in (_entry(key), value, version)]
        _run("put", shard, [ttl, _BEHIND_SECONDS, through, *fields])


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts that a script can take without holding up reads for long."""
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def _run(name: str, shard: int, arguments: list[Any]) -> Any:
    return _script(name)([f"announced:{shard}"], arguments, cache_redis())


@cache
def _script(name: str) -> Script:
    return cache_redis().register_script((Path(__file__).parent / "lua" / f"{name}.lua").read_text())
