"""The cache: values of counters in Redis.

I5 lives here: an entry carries its version, and the script that writes it compares, so a slow fill that races a fresh write loses.
Nothing here raises for a cache that is away: a read goes on to the replica; a value that the worker could not put is put later, and
an entry lives a minute at most, so even if that worker dies first, what the cache holds is soon true again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from prometheus_client import Counter
from redis.exceptions import RedisError

from sharding.breakers import cache_redis

UNREFRESHED = Counter("tally_cache_unrefreshed_total", "Values that could not be put into the cache at once")
log = structlog.get_logger(__name__)

Value = tuple[str, int, int]  # key, value, version
_CHUNK = 1000
_MOST_LEFT = 100_000
_left: dict[str, Value] = {}


@cache
def _script(name: str) -> str:
    return (Path(__file__).parent / "lua" / f"{name}.lua").read_text()


_PREFIX = "c:"


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


def fill(values: Iterable[Value]) -> None:
    """Keep what a read found."""
    try:
        _put(list(values), settings.TALLY.cache_fill_ttl_seconds)
    except RedisError as error:
        log.debug("cache_unfilled", error=str(error))


def refresh(values: Sequence[Value]) -> None:
    """Put what a transaction has written, and what earlier ones could not put. Not thread-safe: the applier's."""
    waiting = [*_left.values(), *values]
    try:
        _put(waiting, settings.TALLY.cache_ttl_seconds)
        _left.clear()
    except RedisError as error:
        UNREFRESHED.inc(len(values))
        log.warning("cache_unrefreshed", values=len(values), error=str(error))
        _left.update({value[0]: value for value in values[: _MOST_LEFT - len(_left)]})


def _put(values: Sequence[Value], ttl: int) -> None:
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        arguments: list[Any] = [ttl]
        for _, value, version in chunk:
            arguments += (value, version)
        cache_redis().eval(_script("refresh"), len(chunk), *(_entry(key) for key, _, _ in chunk), *arguments)


def entries(keys: Sequence[str]) -> dict[str, bytes]:
    """What the cache has of these keys, as it stands there. Raises `RedisError`."""
    found: list[bytes | None] = cache_redis().mget([_entry(key) for key in keys])  # type: ignore[assignment]
    return {key: entry for key, entry in zip(keys, found, strict=True) if entry is not None}


def all_entries(most: int) -> Iterator[dict[str, bytes]]:
    """Everything that the cache has while this goes on, about `most` at a time. Raises `RedisError`."""
    cursor = 0
    while True:
        cursor, names = cache_redis().scan(cursor, match=f"{_PREFIX}*", count=most)  # type: ignore[misc]
        keys = [name.decode(errors="replace").removeprefix(_PREFIX) for name in names]
        yield entries(keys) if keys else {}
        if cursor == 0:
            return


def forget(seen: Mapping[str, bytes]) -> int:
    """Delete entries unless they have changed since they were seen; how many. Raises `RedisError`."""
    names = [_entry(key) for key in seen]
    return int(cache_redis().eval(_script("forget"), len(names), *names, *seen.values())) if names else 0  # type: ignore[arg-type]


def parsed(entry: bytes) -> tuple[int, int]:
    """(value, version) of an entry. Raises `ValueError` for what is none."""
    value, _, version = entry.partition(b" ")
    return int(value), int(version)
