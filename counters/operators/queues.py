"""What waits in the journal, by shard and lane, and who works: one round trip to its Redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from django.conf import settings

from counters.intake import journal, lease
from counters.intake.journal import Journal
from counters.intake.lease import Lease
from runtime import balancing, heartbeats, redis
from sharding import topology
from sharding.lanes import FRESH, QUEUES, SPILL, Lane, Queue

OLD_SECONDS = 10.0  # for a write to wait, beside `TALLY_STALE_SECONDS`


class LaneQueue(msgspec.Struct, frozen=True):
    """A lane: batches in its queues, the age of its oldest fresh batch in seconds, and the worker that applies it, "" if
    none does."""

    lane: str
    batches: int
    age: float
    spilled: int
    holder: str


class Queues(msgspec.Struct, frozen=True):
    """`increments` waiting by shard and queue; `degraded` shards; `ages` of heartbeats by name, in seconds; what the load
    balancer does, None if nobody tells."""

    increments: dict[int, dict[Queue, int]]
    lanes: list[LaneQueue]
    degraded: list[int]
    ages: dict[str, float]
    balancer: balancing.State | None

    @property
    def age(self) -> float:
        """Of the oldest fresh batch, in seconds: how long it takes until a write is on the replicas, at most."""
        return max((one.age for one in self.lanes), default=0.0)

    @property
    def backlog(self) -> int:
        """Increments in all queues."""
        return sum(sum(queues.values()) for queues in self.increments.values())


def late_seconds() -> float:
    """From this age on a fresh batch waits for too long."""
    return max(OLD_SECONDS, settings.TALLY.stale_seconds)


def look() -> Queues:
    """Raises `RedisError`."""
    shards = range(settings.TALLY.shard_count)
    lanes = topology.current().lanes if topology.is_loaded() else ()
    with redis.journal().pipeline(transaction=False) as pipe:
        heartbeats.ask(pipe)
        pipe.get(balancing.STATE)
        for shard in shards:
            pipe.exists(journal.degraded_key(shard))
            for queue in QUEUES:
                pipe.hgetall(Journal(Lane(shard, 0, queue)).backlog_key)
        for lane in lanes:
            _ask(pipe, lane)
        now, beats, balancer, *rest = pipe.execute()
    answers = iter(rest)
    degraded, increments = [], {}
    for shard in shards:
        if next(answers):
            degraded.append(shard)
        increments[shard] = {queue: journal.backlog_of(next(answers)).increments for queue in QUEUES}
    time = now[0] * 1_000_000 + now[1]
    found = [_lane(lane, time, answers) for lane in lanes]
    return Queues(increments, found, degraded, heartbeats.ages(now, beats), _balancer(balancer))


def _ask(pipe: Any, lane: Lane) -> None:
    pipe.zrange(Journal(lane.of(FRESH)).positions_key, 0, 0, withscores=True)
    pipe.hmget(Lease(lane).key, "holder", "until")
    for queue in QUEUES:
        pipe.zcard(Journal(lane.of(queue)).positions_key)


def _lane(lane: Lane, now: int, answers: Iterator[Any]) -> LaneQueue:
    oldest: Sequence[tuple[bytes, float]] = next(answers)
    holder, until = next(answers)
    fresh, *spilled = (int(next(answers)) for _ in (FRESH, *SPILL))
    holds = holder is not None and until is not None and 0 < int(until) - now <= lease.duration()
    age = max(0.0, (now - oldest[0][1]) / 1e6) if oldest else 0.0
    return LaneQueue(str(lane), fresh, age, sum(spilled), holder.decode().partition("#")[0] if holds else "")


def _balancer(found: bytes | None) -> balancing.State | None:
    with suppress(msgspec.MsgspecError):
        return None if found is None else balancing.decoded(found)
    return None
