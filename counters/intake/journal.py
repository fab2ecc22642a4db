"""The journal: accepted batches not yet known to be safe on a shard, in Redis (AOF, fsync always).

Each lane has a journal of two keys, `journal:S.L:positions` (sorted set: batch id by position) and
`journal:S.L:batches` (hash: batch id → bytes). `append` writes them (I1), shifts read them, completion removes safe
batches (I3).

A position is a batch's place in the journal: microseconds since 1970 by Redis's clock, strictly increasing. All lanes
share that clock. Write number n of the batch has the version `position + n`, as has every counter that the write
changed. So a version does not depend on how batches are grouped into transactions, or on which server applies them
again after a failover (I5).

If Redis loses its data, the clock is gone. No write is accepted until the clock is past every version in the shards. A
replica that was promoted has all that was acknowledged, but may lack a write that the old primary alone had and a shard
has applied already. So its clock is also set past the versions of the shards that answer before it takes a write.

Each lane also has a lease (`lease`) and set-aside batches (`set_aside`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings

from runtime import redis
from sharding.lanes import MOST, Lane

CLOCK = "journal:clock"
TOPOLOGY = "journal:topology"  # newest topology version that a batch was routed by
CLOSED = "journal:closed"  # exists while the number of lanes is being changed
HISTORY = "journal:history"  # replication id of the primary on which the clock was set last
ONE_COPY = "journal:one_copy"  # exists while writes are accepted with one copy, see `one_copy`


class JournalUnavailable(Exception):
    """The journal cannot be written or read now; nothing is known to be accepted."""


class TooFewCopies(JournalUnavailable):
    """Too few replicas have the write on disk. It may have been taken."""


class JournalUnreadable(JournalUnavailable):
    """The journal cannot be read now. No write was involved."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A batch's place in the journal of one lane."""

    id: UUID
    position: int


@dataclass(frozen=True)
class Journal:
    """The journal of one lane. Holds no connection and costs nothing to create. Its methods raise `RedisError`."""

    lane: Lane

    @cached_property
    def positions_key(self) -> str:
        """Sorted set: batch ids by position."""
        return f"journal:{self.lane}:positions"

    @cached_property
    def batches_key(self) -> str:
        """Hash: batches by id."""
        return f"journal:{self.lane}:batches"

    def entries(self, *, after: int = 0, through: int | None = None, limit: int = -1) -> list[Entry]:
        """Entries after one position, up to and including another, in order."""
        scores = f"({after}", "+inf" if through is None else through
        found = redis.journal().zrange(self.positions_key, *scores, byscore=True, offset=0, num=limit, withscores=True)
        return [Entry(UUID(bytes=bytes(id)), int(score)) for id, score in found]

    def read(self, after: int, most: int) -> list[tuple[bytes, int, bytes | None]]:
        """The next entries after a position: id, position and bytes (None if just removed)."""
        found = registered("read")([self.positions_key, self.batches_key], [f"({after}", most])
        return list(zip(found[::3], map(int, found[1::3]), found[2::3], strict=True))

    def payloads(self, ids: Sequence[UUID]) -> list[bytes | None]:
        """Bytes of batches, in the order of `ids`; None for a removed batch."""
        return redis.journal().hmget(self.batches_key, [id.bytes for id in ids]) if ids else []

    def sizes(self, ids: Sequence[UUID]) -> list[int]:
        """Sizes of batches in bytes, in the order of `ids`; 0 for a removed batch."""
        with redis.journal().pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hstrlen(self.batches_key, id.bytes)
            lengths: list[int] = pipe.execute()
        return lengths

    def position(self, id: UUID) -> int | None:
        """The position of a batch, or None if it is not in this journal."""
        return positions([self.lane], id)[0]

    def depth(self) -> int:
        """Number of entries."""
        return int(redis.journal().zcard(self.positions_key))

    def age(self) -> float:
        """Seconds since the oldest entry was accepted; 0 if there is none, negative if the clock was set back since."""
        oldest = self.entries(limit=1)
        return (now() - oldest[0].position) / 1e6 if oldest else 0.0

    def is_overdue(self, patience: float) -> bool:
        """Whether the oldest entry has waited for more than `patience` seconds. One of the future counts as well: the
        clock was set back since, and nobody knows."""
        return abs(self.age()) > patience

    def size(self) -> int:
        """Memory that the batches take, in bytes, as Redis estimates it."""
        return int(redis.journal().memory_usage(self.batches_key) or 0)

    def remove(self, ids: Sequence[bytes], tokens: Iterable[bytes]) -> None:
        """Remove completed batches, and let their idempotency tokens expire some time later."""
        with redis.journal().pipeline(transaction=True) as pipe:
            pipe.zrem(self.positions_key, *ids)
            pipe.hdel(self.batches_key, *ids)
            for token in tokens:
                pipe.expire(token_key(token), settings.TALLY.idempotency_redis_seconds, lt=True)
            pipe.execute()

    def tell_degraded(self, degraded: bool) -> None:
        """Record whether batches have left this journal that too few replicas have."""
        if degraded:
            redis.journal().sadd(_degraded_key(self.lane.shard), self.lane.number)
        else:
            redis.journal().srem(_degraded_key(self.lane.shard), self.lane.number)


def registered(name: str) -> Any:
    """A script of `lua/`, ready to be called with keys and arguments."""
    return redis.journal_script(Path(__file__).parent, name)


def token_key(token: bytes) -> bytes:
    """Key of an idempotency token's record, which expires some time after its batch is completed."""
    return b"idempotency:" + token


def now() -> int:
    """The journal's time, in microseconds. Raises `RedisError`."""
    seconds, microseconds = redis.journal().time()
    return int(seconds) * 1_000_000 + int(microseconds)


def positions(lanes: Sequence[Lane], id: UUID) -> list[int | None]:
    """The positions of a flush's batches by lane; None for a lane without one. Raises `RedisError`."""
    with redis.journal().pipeline(transaction=False) as pipe:
        for lane in lanes:
            pipe.zscore(Journal(lane).positions_key, id.bytes)
        return [None if score is None else int(score) for score in pipe.execute()]


def occupied(shard: int) -> list[Lane]:
    """The lanes of a shard that have entries, including lanes no longer in force. Raises `RedisError`."""
    return lanes_with(shard, lambda lane: Journal(lane).positions_key)


def lanes_with(shard: int, key_of: Callable[[Lane], str]) -> list[Lane]:
    """The lanes of a shard whose `key_of` exists, including lanes no longer in force. Raises `RedisError`."""
    lanes = [Lane(shard, number) for number in range(MOST)]
    with redis.journal().pipeline(transaction=False) as pipe:
        for lane in lanes:
            pipe.exists(key_of(lane))
        return [lane for lane, there in zip(lanes, pipe.execute(), strict=True) if there]


def is_degraded(shard: int) -> bool:
    """Whether any of the shard's lanes is degraded, see `counters.apply.completion`. Raises `RedisError`."""
    return bool(redis.journal().exists(_degraded_key(shard)))


def _degraded_key(shard: int) -> str:
    return f"journal:{shard}:degraded_lanes"


def set_clock(version: int) -> int:
    """Set the clock to a version at least, and note whose clock it is. Returns the clock. Raises `RedisError`."""
    return int(registered("set_clock")([CLOCK, HISTORY], [version, int(settings.TALLY.journal_replicas > 0)]))


def close(seconds: float) -> None:
    """Refuse writes for `seconds`, or until `reopen`. Raises `RedisError`, `TooFewCopies`."""
    _confirmed([("SET", CLOSED, 1, "PX", int(seconds * 1000))])


def reopen(topology_version: int) -> None:
    """Accept writes routed by this version of the topology or a newer one. Raises `RedisError`, `TooFewCopies`."""
    _confirmed([("MULTI",), ("SET", TOPOLOGY, topology_version), ("DEL", CLOSED), ("EXEC",)])


def forget_one_copy() -> None:
    """Accept no more writes with one copy. The replicas have this, and thus all earlier writes, on disk when it returns.

    Raises `RedisError`, `TooFewCopies`.
    """
    _confirmed([("DEL", ONE_COPY)], although_one_copy=False)


def _confirmed(commands: Sequence[tuple[Any, ...]], *, although_one_copy: bool = True) -> None:
    """Run commands that a failover must not undo. Raises `RedisError`, `TooFewCopies`.

    While writes are accepted with one copy, so are these; `although_one_copy` says whether.
    """
    with redis.journal().pipeline(transaction=False) as pipe:
        for command in [("EXISTS", ONE_COPY), *commands, *(confirmation := redis.confirmation())]:
            pipe.execute_command(*command)
        one_copy, *replies = pipe.execute()
    if not (one_copy and although_one_copy) and not redis.is_confirmed(
        replies[len(commands) :] if confirmation else []
    ):
        raise TooFewCopies("too few replicas of the journal have the change on disk")
