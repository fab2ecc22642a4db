"""The journal: accepted batches not yet known to be safe on a shard, in Redis (AOF, fsync always).

Each lane has a journal of two keys, `journal:S.L:positions` (sorted set: batch id by position) and
`journal:S.L:batches` (hash: batch id → bytes). `append` writes them (I1), shifts read them, completion removes safe
batches (I3). Each of its spill queues has another, `journal:S.L:excess:…` and `journal:S.L:stale:…` (`sharding.lanes`).

`journal:S:backlog:QUEUE` (hash) has the sum of increments and of bytes in the journals of a shard, by lane. The scripts
that append and remove keep it, by the increments of each entry (`journal:S.L:increments`), so nobody has to count.

A position is a batch's place in the journal: microseconds since 1970 by Redis's clock, strictly increasing. All lanes
share that clock. Write number n of the batch has the version `position + n`, as has every counter that the write
changed. So a version does not depend on how batches are grouped into transactions, or on which server applies them
again after a failover (I5).

If Redis loses its data, the clock is gone. No write is accepted until the clock is past every version in the shards. A
replica that was promoted has all that was acknowledged or applied (`confirmed`), unless the old primary had accepted
writes with one copy and was given up. So its clock is also set past the versions of the shards that answer before it
takes a write.

Each lane also has a lease (`lease`) and set-aside batches (`set_aside`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from django.conf import settings

from runtime import redis
from sharding.lanes import FRESH, MOST, QUEUES, SPILL, STALE, Lane, Queue

CLOCK = "journal:clock"
TOPOLOGY = "journal:topology"  # newest topology version that a batch was routed by
CLOSED = "journal:closed"  # exists while the number of lanes is being changed
HISTORY = "journal:history"  # replication id of the primary on which the clock was set last
ONE_COPY = "journal:one_copy"  # exists while writes are accepted with one copy, see `one_copy`
_DECIDED_SECONDS = 86400  # an id that was applied after all stays no longer
_CHUNK = 1000  # ids that a script takes at once; Lua's stack holds 8000


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

    @cached_property
    def increments_key(self) -> str:
        """Hash: number of increments by batch id."""
        return f"journal:{self.lane}:increments"

    @cached_property
    def backlog_key(self) -> str:
        """Hash: increments, and bytes, by lane of this shard and queue."""
        return _backlog_key(self.lane.shard, self.lane.queue)

    @cached_property
    def decided_key(self) -> str:
        """Set: ids of batches that are to be deferred."""
        return f"journal:{self.lane}:decided"

    @property
    def _keys(self) -> list[str]:
        return [self.positions_key, self.batches_key, self.increments_key, self.backlog_key]

    def entries(self, *, after: int = 0, through: int | None = None, limit: int = -1) -> list[Entry]:
        """Entries after one position, up to and including another, in order."""
        scores = f"({after}", "+inf" if through is None else through
        found = redis.journal().zrange(self.positions_key, *scores, byscore=True, offset=0, num=limit, withscores=True)
        return [Entry(UUID(bytes=bytes(id)), int(score)) for id, score in found]

    def read(self, after: int, most: int, most_bytes: int) -> tuple[bytes, list[tuple[bytes, int, bytes | None]]]:
        """The next entries after a position: id, position and bytes (None if just removed). At most `most`, and none after
        the one with which they have `most_bytes`. Before them, the history that they are of: Redis' replication id, or
        nothing if the journal has no replicas."""
        arguments = [f"({after}", most, most_bytes, settings.TALLY.journal_replicas]
        history, *found = registered("read")([self.positions_key, self.batches_key], arguments)
        return history, list(zip(found[::3], map(int, found[1::3]), found[2::3], strict=True))

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

    def remove(self, ids: Sequence[bytes], tokens: Iterable[bytes]) -> list[float]:
        """Remove completed batches, and let their idempotency tokens expire some time later. Returns the ages in seconds
        of those that were there, by the journal's clock."""
        if not ids:
            return []
        with redis.journal().pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.zmscore(self.positions_key, ids)
            self.remove_in(pipe, ids)
            for token in tokens:
                pipe.expire(token_key(token), settings.TALLY.idempotency_redis_seconds, lt=True)
            (seconds, micros), positions, *_ = pipe.execute()
        return [seconds + (micros - position) / 1e6 for position in positions if position is not None]

    def remove_in(self, pipe: Any, ids: Sequence[bytes]) -> None:
        """Remove batches as part of a pipeline."""
        for some in _chunks(ids):
            registered("remove")(self._keys, [self.lane.number, *some], client=pipe)

    def decided(self) -> set[bytes]:
        """Batches that a shift has decided to defer. Its commit may be lost with a primary, the decision is not."""
        found: set[bytes] = redis.journal().smembers(self.decided_key)
        return found

    def decide(self, ids: Collection[bytes]) -> None:
        """Note that these batches are to be deferred, before that is committed."""
        if ids:
            with redis.journal().pipeline(transaction=True) as pipe:
                pipe.sadd(self.decided_key, *ids)
                pipe.expire(self.decided_key, _DECIDED_SECONDS)
                pipe.execute()

    def defer(self, ids: Sequence[bytes]) -> int:
        """Move batches to the journal of the lane's stale queue, under their ids and positions. Returns how many."""
        keys = [*self._keys, *Journal(self.lane.of(STALE))._keys, self.decided_key]
        return sum(int(registered("defer")(keys, [self.lane.number, *some])) for some in _chunks(ids))

    def tell_degraded(self, degraded: bool) -> None:
        """Record whether batches have left this journal that too few replicas have."""
        if degraded:
            redis.journal().sadd(degraded_key(self.lane.shard), self.lane.place)
        else:
            redis.journal().srem(degraded_key(self.lane.shard), self.lane.place)


class Backlog(NamedTuple):
    """What is in the journals of a shard's lanes: increments, and bytes of their batches."""

    increments: int = 0
    bytes: int = 0


def backlog(shard: int, queue: Queue = FRESH) -> Backlog:
    """What a queue of a shard has, over all lanes. Raises `RedisError`."""
    return backlog_of(redis.journal().hgetall(_backlog_key(shard, queue)))


def backlog_of(fields: Mapping[bytes, bytes]) -> Backlog:
    """The sum of a queue's hash, see the top of this module."""
    size = sum(int(value) for field, value in fields.items() if field.endswith(b":bytes"))
    return Backlog(sum(map(int, fields.values())) - size, size)


def _backlog_key(shard: int, queue: Queue) -> str:
    return f"journal:{shard}:backlog:{queue}"


def _chunks(ids: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (ids[start : start + _CHUNK] for start in range(0, len(ids), _CHUNK))


def registered(name: str) -> Any:
    """A script of `lua/`, ready to be called with keys and arguments."""
    return redis.journal_script(Path(__file__).parent, name)


def rates_keys(window: float) -> tuple[str, str]:
    """Keys of two hashes: increments by key, of keys with many, in this window of so many seconds and in the one before.
    They expire."""
    return f"rates:{window:g}", f"rates:{window:g}:before"


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


def occupied(shard: int, queues: Sequence[Queue] = QUEUES) -> list[Lane]:
    """The lanes of a shard that have entries in these queues, including lanes no longer in force. Raises `RedisError`."""
    return lanes_with(shard, lambda lane: Journal(lane).positions_key, queues)


def spilled(shard: int) -> list[Lane]:
    """The spill queues of a shard that have entries. Raises `RedisError`."""
    return occupied(shard, SPILL)


def lanes_with(shard: int, key_of: Callable[[Lane], str], queues: Sequence[Queue] = QUEUES) -> list[Lane]:
    """The queues of a shard's lanes whose `key_of` exists, including lanes no longer in force. Raises `RedisError`."""
    lanes = {key_of(lane): lane for queue in queues for lane in (Lane(shard, number, queue) for number in range(MOST))}
    if not redis.journal().exists(*lanes):  # as mostly when idle; to ask for each alone takes ten times as long
        return []
    with redis.journal().pipeline(transaction=False) as pipe:
        for key in lanes:
            pipe.exists(key)
        return [lane for lane, there in zip(lanes.values(), pipe.execute(), strict=True) if there]


def is_degraded(shard: int) -> bool:
    """Whether any of the shard's lanes is degraded, see `counters.apply.completion`. Raises `RedisError`."""
    return bool(redis.journal().exists(degraded_key(shard)))


def degraded_key(shard: int) -> str:
    """Set: places of the shard's lanes that are degraded."""
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
