"""The cache: values in Redis, only of counters that are read.

A read adds an entry, and so does a write whose result was requested, as its client reads the value again. Then the
lane's shifts refresh the entry after each commit that changes it. I5 lives here: an entry contains its version, and the
script that writes entries compares versions.

*Before* it commits, a shift asks which of the transaction's keys are cached, and announces the version that its lane is
about to commit (`announce`). A fill states how far each lane was on the node that it read from. If a lane is behind the
announced version, the value may be about to change without the shift knowing of the entry, so the entry is kept for one
second only. So an outdated entry lasts no longer, whatever lags, and shifts refresh only counters that are read.

An entry is due when half of its life is over: the next read on an event loop returns the entry and has it read again
(`lookups`). So entries in use do not expire, and no read waits for one that did.

Reads and fills do not raise if the cache is down: a read goes on to the replica. A value that the worker could not put
is put when the cache is back (`apply.refresher`). Until then the cache may have an older value than a replica has
answered meanwhile, so a process that has missed the cache does not read it for `DOUBT_SECONDS` after its return. An entry
lives a minute at most, so even if that worker dies first, the cache is soon correct again.

The cache names its content by an *epoch*, a key that is only lost with all others. So a cache that was emptied or
replaced is told from one that was away for a while (`reading.warming`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import msgspec
import structlog
from django.conf import settings
from redis.exceptions import RedisError

from runtime import breakers, redis
from runtime.redis import LoopConnection, LoopStalled
from runtime.resources import owned
from sharding.lanes import Lane, number_of
from sharding.slots import slots_of

log = structlog.get_logger(__name__)

T = TypeVar("T")
Value = tuple[str, int, int]  # key, value, version
_PREFIX = "c:"
ROOMS = "room:"  # what keys of other rooms' entries begin with
_BEHIND_SECONDS = 1  # life of a value read from a lagging node
_EVERYTHING = 2**53  # above every version
_CHUNK = 2000  # Lua's stack holds 8000
_EPOCH, _TURN = "epoch", "warming"
_LEASE_MILLISECONDS = 100  # more than a read of a shard takes, unless the shard is slow
DOUBT_SECONDS = 3.0  # more than workers take to notice that the cache is back and to put what they could not


class Entry(NamedTuple):
    """A cached value. `due_ms`: when half of its life is over, in milliseconds since 1970."""

    value: int
    version: int
    due_ms: int


class Found(NamedTuple):
    """(value, version) by key, and the keys whose entries are due."""

    values: dict[str, tuple[int, int]]
    due: list[str]


class Leases(NamedTuple):
    """What a caller may do about keys that the cache did not have. Those in neither are the caller's to read.

    `found`: (value, version) by key, put meanwhile. `others`: keys that another caller reads now. `epoch`: of the
    cache; "" if it did not answer.
    """

    epoch: str
    found: dict[str, tuple[int, int]]
    others: frozenset[str]


class _Doubt:
    """Whether this process may read entries: not while the cache is away, nor just after its return."""

    def __init__(self) -> None:
        self._is_away = False
        self._until = 0.0  # monotonic seconds

    def lasts(self) -> bool:
        return time.monotonic() < self._until

    def begin(self) -> None:
        """The cache did not answer."""
        self._is_away = True

    def returned(self) -> bool:
        """The cache has answered: whether it had not before, so that the answer is not to be used."""
        was_away, self._is_away = self._is_away, False
        if was_away:
            self._until = time.monotonic() + DOUBT_SECONDS
        return was_away

    def end(self) -> None:
        """The cache has no entries from before."""
        self._is_away, self._until = False, 0.0


@owned
def _doubt() -> _Doubt:
    return _Doubt()


def _entry(key: str) -> str:
    return _PREFIX + key


def get_many(keys: Sequence[str]) -> dict[str, tuple[int, int]]:
    """(value, version) by key, for those keys that the cache has."""
    doubt = _doubt()
    if doubt.lasts():
        return {}
    try:
        entries: list[bytes | None] = redis.cache().mget([_entry(key) for key in keys])  # type: ignore[assignment]
    except RedisError as error:
        log.debug("cache_unread", error=str(error))
        doubt.begin()
        return {}
    if doubt.returned():
        return {}
    return {key: (entry.value, entry.version) for key, entry in _read(keys, entries)}


async def get_many_on(connection: LoopConnection, keys: Sequence[str]) -> Found:
    """Like `get_many`, on an event loop; and which of the entries are due."""
    found, doubt = Found({}, []), _doubt()
    if doubt.lasts():
        return found
    try:
        with breakers.cache().calling():
            entries: Any = await connection.execute("MGET", *map(_entry, keys))
    except LoopStalled as error:
        log.debug("cache_unread", error=str(error))
        return found
    except RedisError as error:
        log.debug("cache_unread", error=str(error))
        doubt.begin()
        return found
    if doubt.returned():
        return found
    now = 1000 * time.time()
    for key, entry in _read(keys, entries):
        found.values[key] = entry.value, entry.version
        if entry.due_ms < now:
            found.due.append(key)
    return found


def _read(keys: Sequence[str], entries: Sequence[bytes | None]) -> Iterator[tuple[str, Entry]]:
    for key, entry in zip(keys, entries, strict=True):
        if entry is None:
            continue
        try:
            found = parsed(entry)
        except ValueError:  # reconciliation deletes it
            continue
        yield key, found


def lease(keys: Sequence[str]) -> Leases:
    """Take the leases of keys that the cache does not have. Of all callers, one gets the lease of a key and reads it;
    the others soon find the entry. A lease ends by itself. Raises `RedisError`."""
    return _leases(keys, _script("lease")(*_lease_arguments(keys)))


def lease_text() -> str:
    """The script of `lease_on`."""
    return redis.script(Path(__file__).parent, "lease")


async def lease_on(connection: LoopConnection, text: str, keys: Sequence[str]) -> Leases:
    """Like `lease`, on an event loop. Without the cache, all keys are the caller's."""
    nobody = Leases("", {}, frozenset())
    if _doubt().lasts():
        return nobody
    try:
        with breakers.cache().calling():
            replies = await connection.evaluate(text, *_lease_arguments(keys))
    except RedisError as error:
        log.debug("cache_unleased", error=str(error))
        return nobody
    return _leases(keys, replies)


def _lease_arguments(keys: Sequence[str]) -> tuple[list[str], list[str | int]]:
    names = [name for key in keys for name in (_entry(key), f"lease:{key}")]
    return [_EPOCH, *names], [uuid4().hex, _LEASE_MILLISECONDS]


def _leases(keys: Sequence[str], replies: Sequence[bytes | int]) -> Leases:
    epoch, *of_keys = replies
    entries = [reply if isinstance(reply, bytes) else None for reply in of_keys]
    found = {key: (entry.value, entry.version) for key, entry in _read(keys, entries)}
    others = frozenset(key for key, reply in zip(keys, of_keys, strict=True) if reply == 0)
    return Leases(epoch.decode() if isinstance(epoch, bytes) else "", found, others)


async def epoch_on(connection: LoopConnection, text: str) -> str:
    """The epoch of the cache; an empty one begins another. `text`: of the script (`lease_text`). Raises
    `RedisError`."""
    with breakers.cache().calling():
        return _leases([], await connection.evaluate(text, *_lease_arguments([]))).epoch


def emptied(through: Mapping[Lane, int]) -> None:
    """Trust the cache, which was emptied or replaced: it has nothing from before. Announce the newest versions that the
    lanes have committed, unless a shift has announced a newer one since. Raises `RedisError`."""
    _doubt().end()
    for lane, version in through.items():
        redis.cache().set(_announced(lane), version, nx=True)


def take_turn(seconds: float) -> bool:
    """Whether the caller, of all processes, may warm the cache now; then nobody else may for so long. Raises
    `RedisError`."""
    return bool(redis.cache().set(_TURN, 1, nx=True, px=max(1, round(1000 * seconds))))


def fill(shard: int, values: Sequence[Value], through: Mapping[int, int]) -> None:
    """Cache what a read found on a node of a shard; `through` has the newest version that the node had applied, by
    lane."""
    try:
        _put(shard, values, settings.TALLY.cache_fill_ttl_seconds, through)
    except RedisError as error:
        log.debug("cache_unfilled", error=str(error))


def announce(lane: Lane, version: int, keys: Sequence[str]) -> list[str]:
    """Announce a commit of these keys. Returns those to refresh after it (all of them if the cache does not answer).

    `version`: the newest of the transaction, 0 for none.
    """
    stale: list[str] = []
    try:
        for chunk in _chunks(keys):
            found = _script("announce")([_announced(lane)], [version, msgspec.msgpack.encode(chunk)])
            stale += [chunk[place - 1] for place in found]
    except RedisError as error:
        log.debug("cache_unasked", error=str(error))
        return list(keys)
    return stale


def refresh(lane: Lane, values: Sequence[Value], through: int = _EVERYTHING) -> None:
    """Put the values that a shift of the lane wrote. `through`: no commit up to this version has a newer value; by
    default there is none at all. Raises `RedisError`."""
    for chunk in _chunks(values):
        fields = [field for key, value, version in chunk for field in (_entry(key), value, version, 1)]
        lives = settings.TALLY.cache_ttl_seconds, _BEHIND_SECONDS
        _script("put")([_announced(lane)], [*lives, through, *fields])


def entries(keys: Sequence[str]) -> dict[str, bytes]:
    """The raw cache entries of these keys, without missing ones. Raises `RedisError`."""
    found: list[bytes | None] = redis.cache().mget([_entry(key) for key in keys])  # type: ignore[assignment]
    return {key: entry for key, entry in zip(keys, found, strict=True) if entry is not None}


def all_entries(most: int) -> Iterator[dict[str, bytes]]:
    """Yield the raw entries that the cache has throughout the iteration, about `most` at a time. Raises
    `RedisError`."""
    cursor = 0
    while True:
        found: tuple[int, list[bytes]] = redis.cache().scan(cursor, match=f"{_PREFIX}*", count=most)  # type: ignore[assignment]
        cursor, names = found
        keys = [name.decode(errors="replace").removeprefix(_PREFIX) for name in names]
        yield entries(keys) if keys else {}
        if cursor == 0:
            return


def forget(seen: Mapping[str, bytes]) -> int:
    """Delete entries that have not changed since they were seen. Returns how many. Raises `RedisError`."""
    return int(_script("forget")([_entry(key) for key in seen], list(seen.values()))) if seen else 0


def clear() -> int:
    """Delete all entries, also those of other rooms, and announcements, and begin another epoch. Returns how many. Raises
    `RedisError`."""
    gone = 0
    for pattern in (f"{_PREFIX}*", f"{ROOMS}*", "announced:*"):
        for name in redis.cache().scan_iter(match=pattern, count=_CHUNK):
            gone += int(redis.cache().unlink(name))
    redis.cache().delete(_EPOCH)
    return gone


def parsed(entry: bytes) -> Entry:
    """An entry as `put.lua` writes it. Raises `ValueError` if it is invalid."""
    value, version, due_ms = entry.split(b" ")
    return Entry(int(value), int(version), int(due_ms))


def _put(shard: int, values: Sequence[Value], ttl: int, through: Mapping[int, int]) -> None:
    """Put values of several lanes; each is kept for `ttl` seconds, or `_BEHIND_SECONDS` if its lane is behind."""
    count = len(through)
    announced = [_announced(Lane(shard, number)) for number in range(count)]
    for chunk in _chunks(values):
        lanes = (number_of(slot, count) for slot in slots_of(key for key, _, _ in chunk))
        fields = [
            field
            for lane, (key, value, version) in zip(lanes, chunk, strict=True)
            for field in (_entry(key), value, version, lane + 1)
        ]
        _script("put")(announced, [ttl, _BEHIND_SECONDS, *(through[number] for number in range(count)), *fields])


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts that a script can take without blocking reads for long."""
    return (items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK))


def _announced(lane: Lane) -> str:
    return f"announced:{lane}"


def _script(name: str) -> Any:
    return redis.cache_script(Path(__file__).parent, name)
