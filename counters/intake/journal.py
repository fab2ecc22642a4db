"""The journal: accepted batches not yet known to be safe on a shard, in Redis (AOF, fsync always).

I1 lives here: `append` returns after Redis has answered, and Redis answers after its fsync. Each lane has a journal of two keys,
`journal:S.L:positions` (sorted set: batch id by position) and `journal:S.L:batches` (hash: batch id → bytes). One clock serves all lanes.

A position is the place of a batch in the journal: microseconds since 1970 by Redis's clock, strictly rising. Write number n of
the batch has the version `position + n`; that is the version of every counter that it changed, so a version is the same however
batches are grouped into transactions, and on whichever server they are applied again after a failover (I5).

If Redis was emptied, the clock is gone, and nothing is accepted until the clock is known to be past every version that a shard holds.

Beside its journal each lane has a lease, `journal:S.L:shift`: who applies the lane now, or that a task was sent for it (`dispatch`). The
lease is a hint (I4): it runs out by itself, it is not in the AOF, and two shifts at once are slower and nothing worse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import structlog
from django.conf import settings

from runtime import redis
from sharding.lanes import MOST, Lane

log = structlog.get_logger(__name__)

CLOCK = "journal:clock"
TOPOLOGY = "journal:topology"  # version of the newest that anything was routed by
CLOSED = "journal:closed"  # there while the number of lanes is being changed


class JournalUnavailable(Exception):
    """The journal cannot take or tell anything now; nothing is known to be accepted."""


class JournalUnreadable(JournalUnavailable):
    """The journal does not answer a question now. Nothing was to be written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch's place in the journal of one lane."""

    id: UUID
    position: int


class Poison(msgspec.Struct, array_like=True, frozen=True):
    """A batch that was set aside: where it stood, why, and its bytes."""

    position: int
    reason: str
    data: bytes


@dataclass(frozen=True, slots=True)
class SetAside:
    """A batch that was set aside, without its bytes: their number is `size`."""

    id: UUID
    position: int
    reason: str
    size: int


_poison = msgspec.msgpack.Decoder(Poison)


@cache
def registered(name: str) -> Any:
    """A script of `lua/`, ready to be called with keys and arguments."""
    return redis.journal().register_script(redis.script(Path(__file__).parent, name))


def positions_key(lane: Lane) -> str:
    """Sorted set of a lane's batch ids by position."""
    return f"journal:{lane}:positions"


def batches_key(lane: Lane) -> str:
    """Hash of a lane's batches by id."""
    return f"journal:{lane}:batches"


def shift_key(lane: Lane) -> str:
    """Hash, a lane's lease: `until` when (microseconds), `holder` (none: a task was sent), `lingers` if its shift waits for more."""
    return f"journal:{lane}:shift"


def wake_channel(lane: Lane) -> str:
    """Where `append` wakes a lane's shift: one that lingers by any append, one that rests by an operation whose result is waited for."""
    return f"journal:{lane}:wake"


def poison_key(lane: Lane) -> str:
    """Hash of a lane's batches that could not be decoded, by id."""
    return f"journal:{lane}:poison"


def token_key(token: bytes) -> bytes:
    """Where an idempotency token's record is kept until some time after it is safe in its shard."""
    return b"idempotency:" + token


def lease() -> int:
    """Microseconds for which a lane is left to whoever holds its lease."""
    return int(settings.TALLY.lease_seconds * 1e6)


def entries(lane: Lane, *, after: int = 0, through: int | None = None, limit: int = -1) -> list[Entry]:
    """Entries of a lane beyond a position, up to another, in order. Raises `RedisError`."""
    last = "+inf" if through is None else through
    found = redis.journal().zrange(positions_key(lane), f"({after}", last, byscore=True, offset=0, num=limit, withscores=True)
    return [Entry(UUID(bytes=bytes(id)), int(score)) for id, score in found]


def read(lane: Lane, after: int, most: int) -> list[tuple[bytes, int, bytes | None]]:
    """The next entries beyond a position: id, position and bytes, None for one that has just gone. Raises `RedisError`."""
    found = registered("read")([positions_key(lane), batches_key(lane)], [f"({after}", most])
    return list(zip(found[::3], map(int, found[1::3]), found[2::3], strict=True))


def payloads(lane: Lane, ids: Sequence[UUID]) -> list[bytes | None]:
    """Bytes of batches, in the order asked for; None for one that is gone. Raises `RedisError`."""
    return redis.journal().hmget(batches_key(lane), [id.bytes for id in ids]) if ids else []


def sizes(lane: Lane, ids: Sequence[UUID]) -> list[int]:
    """Bytes of batches, in the order asked for; 0 for one that is gone. Raises `RedisError`."""
    with redis.journal().pipeline(transaction=False) as pipe:
        for id in ids:
            pipe.hstrlen(batches_key(lane), id.bytes)
        lengths: list[int] = pipe.execute()
    return lengths


def position(lane: Lane, id: UUID) -> int | None:
    """Where a batch stands, or None if it is not in the lane's journal. Raises `RedisError`."""
    return positions([lane], id)[0]


def positions(lanes: Sequence[Lane], id: UUID) -> list[int | None]:
    """Where the batches of one flush stand, for each lane; None where it has none. Raises `RedisError`."""
    with redis.journal().pipeline(transaction=False) as pipe:
        for lane in lanes:
            pipe.zscore(positions_key(lane), id.bytes)
        return [None if score is None else int(score) for score in pipe.execute()]


def hold(lane: Lane, holder: str, then: str) -> bool:
    """Take (`holder` is `then`), renew, or hand over a lane's lease; "" is nobody, for whom a task is sent. Raises `RedisError`.

    Returns False, changing nothing, if another shift has it.
    """
    return bool(registered("hold")([shift_key(lane)], [holder, then, lease()]))


def linger(lane: Lane, holder: str, after: int) -> bool:
    """Have every append wake the shift. Returns False, changing nothing, if entries follow `after`, or the lease is another's.

    Raises `RedisError`.
    """
    return bool(registered("linger")([positions_key(lane), shift_key(lane)], [holder, f"({after}", lease()]))


def release(lane: Lane, holder: str, after: int) -> bool:
    """Give a lease back. Returns False, changing nothing, if entries follow `after`. Raises `RedisError`."""
    return bool(registered("release")([positions_key(lane), shift_key(lane)], [holder, f"({after}"]))


class WakeUps:
    """What wakes a lane's shift, from here on until `close`. Not thread-safe; its methods raise `RedisError`.

    Published, not kept in a list: the time-out of a wait is the socket's, while an idle Redis ends BLPOP up to 100 ms late.
    """

    def __init__(self, lane: Lane) -> None:
        self._messages = redis.journal().pubsub()
        self._messages.subscribe(wake_channel(lane))
        self._messages.get_message(timeout=settings.TALLY.redis_timeout_seconds)  # from here on nothing is missed

    def forget(self) -> None:
        """What came until now wakes nobody."""
        while self._messages.get_message() is not None:
            pass

    def wait(self, seconds: float) -> bool:
        """Wait for a wake-up, so long at most; whether there was one."""
        return self._messages.get_message(timeout=max(0.0, seconds)) is not None

    def close(self) -> None:
        self._messages.close()


def holder(lane: Lane) -> str | None:
    """Who applies a lane: None if its lease has run out, "" if a task was sent and no shift has begun. Raises `RedisError`."""
    held, until = redis.journal().hmget(shift_key(lane), "holder", "until")
    if until is None or int(until) <= now():
        return None
    return "" if held is None else str(held.decode())


def occupied(shard: int) -> list[Lane]:
    """The lanes of a shard that have entries, whatever number of lanes is in force. Raises `RedisError`."""
    return _having(shard, positions_key)


def with_set_aside(shard: int) -> list[Lane]:
    """The lanes of a shard that have batches set aside, whatever number of lanes is in force. Raises `RedisError`."""
    return _having(shard, poison_key)


def _having(shard: int, key_of: Callable[[Lane], str]) -> list[Lane]:
    lanes = [Lane(shard, number) for number in range(MOST)]
    with redis.journal().pipeline(transaction=False) as pipe:
        for lane in lanes:
            pipe.exists(key_of(lane))
        return [lane for lane, there in zip(lanes, pipe.execute(), strict=True) if there]


def depth(lane: Lane) -> int:
    """Number of entries. Raises `RedisError`."""
    return int(redis.journal().zcard(positions_key(lane)))


def age(lane: Lane) -> float:
    """Seconds since the oldest entry was accepted; 0 if there is none. Raises `RedisError`."""
    oldest = entries(lane, limit=1)
    return max(0.0, (now() - oldest[0].position) / 1e6) if oldest else 0.0


def size(lane: Lane) -> int:
    """Bytes of memory that a lane's batches take, as Redis estimates it. Raises `RedisError`."""
    return int(redis.journal().memory_usage(batches_key(lane)) or 0)


def now() -> int:
    """The journal's time, in microseconds. Raises `RedisError`."""
    seconds, microseconds = redis.journal().time()
    return int(seconds) * 1_000_000 + int(microseconds)


def remove(lane: Lane, ids: Sequence[bytes], tokens: Iterable[bytes]) -> None:
    """Completion: forget batches that are safe, and let their idempotency tokens go some time later. Raises `RedisError`."""
    with redis.journal().pipeline(transaction=True) as pipe:
        pipe.zrem(positions_key(lane), *ids)
        pipe.hdel(batches_key(lane), *ids)
        for token in tokens:
            pipe.expire(token_key(token), settings.TALLY.idempotency_redis_seconds, lt=True)
        pipe.execute()


def tell_degraded(lane: Lane, degraded: bool) -> None:
    """A shift's word on whether batches left its lane's journal that too few replicas have. Raises `RedisError`."""
    if degraded:
        redis.journal().sadd(_degraded_key(lane.shard), lane.number)
    else:
        redis.journal().srem(_degraded_key(lane.shard), lane.number)


def is_degraded(shard: int) -> bool:
    """Whether some lane's shift said so last, see `counters.apply.completion`. Raises `RedisError`."""
    return bool(redis.journal().exists(_degraded_key(shard)))


def _degraded_key(shard: int) -> str:
    return f"journal:{shard}:degraded_lanes"


def set_aside(lane: Lane, entry: Entry, reason: str) -> None:
    """Take a batch that cannot be decoded or applied out of the way, and keep it with the reason. Raises `RedisError`."""
    data = payloads(lane, [entry.id])[0]
    with redis.journal().pipeline(transaction=True) as pipe:
        if data is not None:
            pipe.hset(poison_key(lane), entry.id.bytes, msgspec.msgpack.encode(Poison(entry.position, reason, data)))
        pipe.zrem(positions_key(lane), entry.id.bytes)
        pipe.hdel(batches_key(lane), entry.id.bytes)
        pipe.execute()


def poison(lane: Lane) -> dict[UUID, Poison]:
    """What was set aside. Raises `RedisError`."""
    return {UUID(bytes=id): _poison.decode(data) for id, data in redis.journal().hgetall(poison_key(lane)).items()}


def set_aside_count(lane: Lane) -> int:
    """How many were set aside. Raises `RedisError`."""
    return int(redis.journal().hlen(poison_key(lane)))


def set_aside_ids(lane: Lane) -> list[UUID]:
    """The ids of what was set aside, the newest first (ids of forwarded batches tell no time). Raises `RedisError`."""
    return sorted((UUID(bytes=id) for id in redis.journal().hkeys(poison_key(lane))), reverse=True)


def set_aside_batches(lane: Lane, ids: Sequence[UUID]) -> list[SetAside]:
    """Batches that were set aside, without their bytes; those that are gone are left out. Raises `RedisError`."""
    heads = registered("set_aside")([poison_key(lane)], [id.bytes for id in ids]) if ids else []
    return [SetAside(id, int(head[0]), head[1].decode(errors="replace"), int(head[2])) for id, head in zip(ids, heads, strict=True) if head]


def retry(lane: Lane, id: UUID) -> int | None:
    """Put a batch that was set aside back to its place in the journal; its position, or None if it is not there. Raises `RedisError`.

    It is applied as what it is, late: increments that a set has voided since stay void.
    """
    found = redis.journal().hget(poison_key(lane), id.bytes)
    if found is None:
        return None
    one = _poison.decode(found)
    with redis.journal().pipeline(transaction=True) as pipe:
        pipe.zadd(positions_key(lane), {id.bytes: one.position}, nx=True)
        pipe.hset(batches_key(lane), id.bytes, one.data)
        pipe.hdel(poison_key(lane), id.bytes)
        pipe.execute()
    return one.position


def discard(lane: Lane, id: UUID) -> bool:
    """Forget a batch that was set aside; whether it was there. Raises `RedisError`."""
    return bool(redis.journal().hdel(poison_key(lane), id.bytes))


def close(seconds: float) -> None:
    """Take nothing for so long, or until `reopen`. Raises `RedisError`."""
    redis.journal().set(CLOSED, 1, px=int(seconds * 1000))


def reopen(topology_version: int) -> None:
    """Take what is routed by this version of the topology, or a newer one. Raises `RedisError`."""
    with redis.journal().pipeline(transaction=True) as pipe:
        pipe.set(TOPOLOGY, topology_version)
        pipe.delete(CLOSED)
        pipe.execute()


def adopt_shard_journal(shard: int) -> int:
    """Make the journal that a shard had before there were lanes that of its lane 0; the number of its entries. Raises `RedisError`."""
    lane = Lane(shard, 0)
    old = f"journal:{shard}"
    found = redis.journal().zrange(f"{old}:positions", 0, -1, withscores=True)
    batches, poison = redis.journal().hgetall(f"{old}:batches"), redis.journal().hgetall(f"{old}:poison")
    with redis.journal().pipeline(transaction=True) as pipe:
        if found:
            pipe.zadd(positions_key(lane), dict(found), nx=True)
        for key, entries in ((batches_key(lane), batches), (poison_key(lane), poison)):
            if entries:
                pipe.hset(key, mapping=entries)
        pipe.delete(*(f"{old}:{name}" for name in ("positions", "batches", "poison", "asleep", "pace", "degraded")))
        pipe.execute()
    if found:
        log.info("shard_journal_adopted", lane=str(lane), entries=len(found))
    return len(found)
