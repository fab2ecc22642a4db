"""The cache: values of counters in Redis, those that somebody reads.

A read puts an entry there, and so does a write whose result was asked for: whoever was told it reads it again. From
then on its lane's shifts refresh it after each commit that changes it. I5 lives here: an entry carries its version, and
the script that writes it compares.

A shift asks which of a transaction's keys are cached *before* it commits, and announces the version that its lane is
about to commit (`announce`). A fill tells how far each lane of the node was that it read from: if that is behind the
announced version, the value may be about to change without the shift knowing of the entry, and it is kept for a second
only. So an entry is never older than that for long, whatever lags, and a window of writes costs the cache nothing for
counters that nobody reads.

Reads and fills do not raise for a cache that is down: a read goes on to the replica. A value that the worker could not
put is put later (`apply.refresher`). An entry lives a minute at most, so even if that worker dies first, what the cache
holds is soon true again.
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
from redis.asyncio import Redis as AsyncRedis
from redis.commands.core import Script
from redis.exceptions import RedisError

from runtime import breakers, redis
from sharding.lanes import Lane, number_of
from sharding.slots import slots_of

log = structlog.get_logger(__name__)

T = TypeVar("T")
Value = tuple[str, int, int]  # key, value, version
_PREFIX = "c:"
_BEHIND_SECONDS = 1  # life of a value that was read from a node that lags
_EVERYTHING = 2**53  # beyond every version
_CHUNK = 2000  # Lua's stack holds 8000


def _entry(key: str) -> str:
    return _PREFIX + key


def get_many(keys: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(value, version) of those keys that the cache has."""
    try:
        entries: list[bytes | None] = redis.cache().mget([_entry(key) for key in keys])  # type: ignore[assignment]
    except RedisError as error:
        log.debug("cache_unread", error=str(error))
        return {}
    return _read(keys, entries)


async def get_many_on(client: AsyncRedis, keys: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The same on an event loop."""
    try:
        with breakers.cache.calling():
            entries: Any = await client.mget([_entry(key) for key in keys])
    except RedisError as error:
        log.debug("cache_unread", error=str(error))
        return {}
    return _read(keys, entries)


def _read(keys: Sequence[str], entries: Sequence[bytes | None]) -> dict[str, tuple[int, int]]:
    found = {}
    for key, entry in zip(keys, entries, strict=True):
        with suppress(ValueError):  # what is no entry is none; reconciliation deletes it
            if entry is not None:
                found[key] = parsed(entry)
    return found


def fill(shard: int, values: Sequence[Value], through: Mapping[int, int]) -> None:
    """Keep what a read found on a node of a shard; `through` has, for each of its lanes, the newest version that the
    node had applied."""
    try:
        _put(shard, values, settings.TALLY.cache_fill_ttl_seconds, through)
    except RedisError as error:
        log.debug("cache_unfilled", error=str(error))


def announce(lane: Lane, version: int, keys: Sequence[str]) -> list[str]:
    """Before a commit of these keys: those that are to be refreshed after it (all of them if the cache does not
    answer).

    `version`: the newest of the transaction, 0 for none.
    """
    stale: list[str] = []
    try:
        for chunk in _chunks(keys):
            found = _script("announce")([_announced(lane)], [version, msgspec.msgpack.encode(chunk)], redis.cache())
            stale += [chunk[place - 1] for place in found]
    except RedisError as error:
        log.debug("cache_unasked", error=str(error))
        return list(keys)
    return stale


def refresh(lane: Lane, values: Sequence[Value]) -> None:
    """Put what a shift of the lane has written: nothing is newer. Raises `RedisError`."""
    for chunk in _chunks(values):
        fields = [field for key, value, version in chunk for field in (_entry(key), value, version, 1)]
        lives = settings.TALLY.cache_ttl_seconds, _BEHIND_SECONDS
        _script("put")([_announced(lane)], [*lives, _EVERYTHING, *fields], redis.cache())


def entries(keys: Sequence[str]) -> dict[str, bytes]:
    """What the cache has of these keys, as it stands there. Raises `RedisError`."""
    found: list[bytes | None] = redis.cache().mget([_entry(key) for key in keys])  # type: ignore[assignment]
    return {key: entry for key, entry in zip(keys, found, strict=True) if entry is not None}


def all_entries(most: int) -> Iterator[dict[str, bytes]]:
    """Everything that the cache has while this goes on, about `most` at a time. Raises `RedisError`."""
    cursor = 0
    while True:
        found: tuple[int, list[bytes]] = redis.cache().scan(cursor, match=f"{_PREFIX}*", count=most)  # type: ignore[assignment]
        cursor, names = found
        keys = [name.decode(errors="replace").removeprefix(_PREFIX) for name in names]
        yield entries(keys) if keys else {}
        if cursor == 0:
            return


def forget(seen: Mapping[str, bytes]) -> int:
    """Delete entries unless they have changed since they were seen; how many. Raises `RedisError`."""
    return int(_script("forget")([_entry(key) for key in seen], list(seen.values()), redis.cache())) if seen else 0


def parsed(entry: bytes) -> tuple[int, int]:
    """(value, version) of an entry. Raises `ValueError` for what is none."""
    value, _, version = entry.partition(b" ")
    return int(value), int(version)


def _put(shard: int, values: Sequence[Value], ttl: int, through: Mapping[int, int]) -> None:
    """Put values of several lanes; each is kept for `ttl` seconds, or for a moment where its lane is behind."""
    count = len(through)
    announced = [_announced(Lane(shard, number)) for number in range(count)]
    for chunk in _chunks(values):
        lanes = (number_of(slot, count) for slot in slots_of(key for key, _, _ in chunk))
        fields = [
            field
            for lane, (key, value, version) in zip(lanes, chunk, strict=True)
            for field in (_entry(key), value, version, lane + 1)
        ]
        _script("put")(
            announced, [ttl, _BEHIND_SECONDS, *(through[number] for number in range(count)), *fields], redis.cache()
        )


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts that a script can take without holding up reads for long."""
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def _announced(lane: Lane) -> str:
    return f"announced:{lane}"


@cache
def _script(name: str) -> Script:
    return redis.cache().register_script(redis.script(Path(__file__).parent, name))
