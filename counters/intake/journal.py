"""The journal: accepted batches not yet known to be safe on a shard, in Redis (AOF, fsync always).

I1 lives here: `append` returns after Redis has answered, and Redis answers after its fsync. Each shard has two keys,
`journal:N:positions` (sorted set: batch id by position) and `journal:N:batches` (hash: batch id → bytes). One clock serves all shards.

A position is the place of a batch in the journal: microseconds since 1970 by Redis's clock, strictly rising. Write number n of
the batch has the version `position + n`; that is the version of every counter that it changed, so a version is the same however
batches are grouped into transactions, and on whichever server they are applied again after a failover (I5).

If Redis was emptied, the clock is gone, and nothing is accepted until the clock is known to be past every version that a shard holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import structlog
from django.conf import settings
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry

from sharding import breakers, databases

log = structlog.get_logger(__name__)

CLOCK = "journal:clock"
LAST_VERSIONS = "SELECT coalesce(max(last_version), 0) FROM apply_state"


class JournalUnavailable(Exception):
    """The journal cannot take or tell anything now; nothing is known to be accepted."""


class TokensTaken(Exception):
    """Some idempotency tokens of a flush are in use; `records` has what each of those stands for."""

    def __init__(self, records: dict[bytes, bytes]) -> None:
        super().__init__("idempotency tokens in use")
        self.records = records


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch's place in the journal of one shard."""

    id: UUID
    position: int


@dataclass(frozen=True, slots=True)
class Appended:
    """A flush in the journal, and those of its shards whose workers wait for a message; the others look by themselves."""

    position: int
    asleep: list[int]


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
def client() -> Any:
    """The connections of this process, a `Redis` (its answers have no useful types). No hidden repeats: `append` makes its own."""
    timeout = settings.TALLY.redis_timeout_seconds
    return Redis.from_url(
        settings.TALLY.journal_url.get_secret_value(),
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        socket_keepalive=True,
        health_check_interval=0,
        retry=Retry(NoBackoff(), 0),
    )


def _script(name: str) -> str:
    return (Path(__file__).parent / "lua" / f"{name}.lua").read_text()


@cache
def _append() -> Any:
    return client().register_script(_script("append"))


@cache
def _fall_asleep() -> Any:
    return client().register_script(_script("fall_asleep"))


@cache
def _set_aside_heads() -> Any:
    return client().register_script(_script("set_aside"))


def positions_key(shard: int) -> str:
    """Sorted set of a shard's batch ids by position."""
    return f"journal:{shard}:positions"


def batches_key(shard: int) -> str:
    """Hash of a shard's batches by id."""
    return f"journal:{shard}:batches"


def asleep_key(shard: int) -> str:
    """Whether a shard's worker waits for a message: it is there, or not."""
    return f"journal:{shard}:asleep"


def poison_key(shard: int) -> str:
    """Hash of a shard's batches that could not be decoded, by id."""
    return f"journal:{shard}:poison"


def token_key(token: bytes) -> bytes:
    """Where an idempotency token's record is kept until some time after it is safe in its shard."""
    return b"idempotency:" + token


def append(id: UUID, payloads: dict[int, bytes], writes: int, tokens: dict[bytes, bytes]) -> Appended:
    """Write one flush: a payload for each shard, under one id. Returns once it is on the disk.

    Raises `TokensTaken` (nothing was written), or `JournalUnavailable`: then it may or may not have been written.
    """
    keys: list[str | bytes] = [CLOCK]
    for shard in payloads:
        keys += [positions_key(shard), batches_key(shard), asleep_key(shard)]
    keys += map(token_key, tokens)
    args = [id.bytes, writes, len(payloads), *payloads.values(), settings.TALLY.retention_days * 86400, *tokens.values()]
    reply = _run_append(keys, args)
    if reply[0] == b"unset":
        _set_clock()
        reply = _run_append(keys, args)
    if reply[0] == b"taken":
        raise TokensTaken({token: record for token, record in zip(tokens, reply[1:], strict=True) if record is not None})
    if reply[0] != b"appended":
        raise JournalUnavailable("the journal's clock could not be set")
    return Appended(int(reply[1]), [shard for shard, was_asleep in zip(payloads, reply[2:], strict=True) if was_asleep])


def _run_append(keys: list[str | bytes], args: list[object]) -> Any:
    try:
        return breakers.guard(breakers.JOURNAL, partial(_append_twice, keys, args))
    except RedisError as error:
        raise JournalUnavailable(f"the journal did not answer: {error}") from error


def _append_twice(keys: list[str | bytes], args: list[object]) -> Any:
    """A connection may have died while nobody used it: that alone is no reason to refuse writes."""
    try:
        return _append()(keys, args)
    except RedisTimeout:
        raise
    except RedisConnectionError as error:
        log.warning("journal_append_repeated", error=str(error))
        return _append()(keys, args)


def _set_clock() -> None:
    """Start the clock of an empty Redis behind every version in use: needs every shard's primary."""
    last = 0
    for shard in range(settings.TALLY.shard_count):
        try:
            with databases.connection(databases.primary(shard)) as conn:
                last = max(last, *conn.execute(LAST_VERSIONS).fetchall()[0])
        except psycopg.Error as error:
            raise JournalUnavailable(f"the journal is empty, and shard {shard} cannot tell its last version: {error}") from error
    try:
        client().set(CLOCK, last, nx=True)
    except RedisError as error:
        raise JournalUnavailable(f"the journal did not answer: {error}") from error
    log.warning("journal_clock_set", last_version=last)


def entries(shard: int, *, after: int = 0, limit: int = -1) -> list[Entry]:
    """Entries of a shard beyond a position, in order. Raises `RedisError`."""
    found = client().zrange(positions_key(shard), f"({after}", "+inf", byscore=True, offset=0, num=limit, withscores=True)
    return [Entry(UUID(bytes=bytes(id)), int(score)) for id, score in found]


def payloads(shard: int, ids: Sequence[UUID]) -> list[bytes | None]:
    """Bytes of batches, in the order asked for; None for one that is gone. Raises `RedisError`."""
    return client().hmget(batches_key(shard), [id.bytes for id in ids]) if ids else []


def sizes(shard: int, ids: Sequence[UUID]) -> list[int]:
    """Bytes of batches, in the order asked for; 0 for one that is gone. Raises `RedisError`."""
    with client().pipeline(transaction=False) as pipe:
        for id in ids:
            pipe.hstrlen(batches_key(shard), id.bytes)
        lengths: list[int] = pipe.execute()
    return lengths


def position(shard: int, id: UUID) -> int | None:
    """Where a batch stands, or None if it is not in the journal. Raises `RedisError`."""
    score = client().zscore(positions_key(shard), id.bytes)
    return None if score is None else int(score)


def fall_asleep(shard: int, after: int) -> bool:
    """From now on a message is wanted, unless there are entries beyond a position: then nothing is done, and False. Raises `RedisError`."""
    return bool(_fall_asleep()([positions_key(shard), asleep_key(shard)], [f"({after}"]))


def depth(shard: int) -> int:
    """Number of entries. Raises `RedisError`."""
    return int(client().zcard(positions_key(shard)))


def age(shard: int) -> float:
    """Seconds since the oldest entry was accepted; 0 if there is none. Raises `RedisError`."""
    oldest = entries(shard, limit=1)
    return max(0.0, (now() - oldest[0].position) / 1e6) if oldest else 0.0


def size(shard: int) -> int:
    """Bytes of memory that a shard's batches take, as Redis estimates it. Raises `RedisError`."""
    return int(client().memory_usage(batches_key(shard)) or 0)


def now() -> int:
    """The journal's time, in microseconds. Raises `RedisError`."""
    seconds, microseconds = client().time()
    return int(seconds) * 1_000_000 + int(microseconds)


def remove(shard: int, ids: Sequence[UUID], tokens: Iterable[bytes]) -> None:
    """Completion: forget batches that are safe, and let their idempotency tokens go some time later. Raises `RedisError`."""
    raw = [id.bytes for id in ids]
    with client().pipeline(transaction=True) as pipe:
        pipe.zrem(positions_key(shard), *raw)
        pipe.hdel(batches_key(shard), *raw)
        for token in tokens:
            pipe.expire(token_key(token), settings.TALLY.idempotency_redis_seconds, lt=True)
        pipe.execute()


def tell_pace(shard: int, seconds: float) -> None:
    """The worker's word on how long its last transaction took; the relay goes by it. Raises `RedisError`."""
    client().set(f"journal:{shard}:pace", f"{seconds:.3f}", ex=60)


def pace(shard: int) -> float:
    """Seconds that the worker's last transaction took; 0 if it did nothing for a minute. Raises `RedisError`."""
    return float(client().get(f"journal:{shard}:pace") or 0)


def tell_degraded(shard: int, degraded: bool) -> None:
    """The worker's word on whether batches left the journal that too few replicas have. Raises `RedisError`."""
    if degraded:
        client().set(f"journal:{shard}:degraded", "1")
    else:
        client().delete(f"journal:{shard}:degraded")


def is_degraded(shard: int) -> bool:
    """What the shard's worker said last, see `counters.apply.completion`. Raises `RedisError`."""
    return bool(client().exists(f"journal:{shard}:degraded"))


def set_aside(shard: int, entry: Entry, reason: str) -> None:
    """Take a batch that cannot be decoded or applied out of the way, and keep it with the reason. Raises `RedisError`."""
    data = payloads(shard, [entry.id])[0]
    with client().pipeline(transaction=True) as pipe:
        if data is not None:
            pipe.hset(poison_key(shard), entry.id.bytes, msgspec.msgpack.encode(Poison(entry.position, reason, data)))
        pipe.zrem(positions_key(shard), entry.id.bytes)
        pipe.hdel(batches_key(shard), entry.id.bytes)
        pipe.execute()


def poison(shard: int) -> dict[UUID, Poison]:
    """What was set aside. Raises `RedisError`."""
    return {UUID(bytes=id): _poison.decode(data) for id, data in client().hgetall(poison_key(shard)).items()}


def set_aside_count(shard: int) -> int:
    """How many were set aside. Raises `RedisError`."""
    return int(client().hlen(poison_key(shard)))


def set_aside_ids(shard: int) -> list[UUID]:
    """The ids of what was set aside, the newest first (ids of forwarded batches tell no time). Raises `RedisError`."""
    return sorted((UUID(bytes=id) for id in client().hkeys(poison_key(shard))), reverse=True)


def set_aside_batches(shard: int, ids: Sequence[UUID]) -> list[SetAside]:
    """Batches that were set aside, without their bytes; those that are gone are left out. Raises `RedisError`."""
    heads = _set_aside_heads()([poison_key(shard)], [id.bytes for id in ids]) if ids else []
    return [SetAside(id, int(head[0]), head[1].decode(errors="replace"), int(head[2])) for id, head in zip(ids, heads, strict=True) if head]


def retry(shard: int, id: UUID) -> int | None:
    """Put a batch that was set aside back to its place in the journal; its position, or None if it is not there. Raises `RedisError`.

    It is applied as what it is, late: increments that a set has voided since stay void.
    """
    found = client().hget(poison_key(shard), id.bytes)
    if found is None:
        return None
    one = _poison.decode(found)
    with client().pipeline(transaction=True) as pipe:
        pipe.zadd(positions_key(shard), {id.bytes: one.position}, nx=True)
        pipe.hset(batches_key(shard), id.bytes, one.data)
        pipe.hdel(poison_key(shard), id.bytes)
        pipe.execute()
    return one.position


def discard(shard: int, id: UUID) -> bool:
    """Forget a batch that was set aside; whether it was there. Raises `RedisError`."""
    return bool(client().hdel(poison_key(shard), id.bytes))
