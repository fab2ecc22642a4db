"""Which worker applies which lane now, as the leases in the journal's Redis tell; and how long the oldest entry waits.

The lease of a lane is the hash `journal:SHARD.LANE:shift`. `until` is when it runs out, in microseconds since 1970 by
Redis' clock. `holder` is the Celery name of a worker with an id of its shift, `worker-0-1@host#1a2b3c`; it is missing
while a task was only sent. A lane that has had nothing to apply for a moment has no lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from sharding.lanes import MOST, Lane

from . import ClusterError, layout, redis, sentinels
from .layout import Directory

T = TypeVar("T")


class Lease(NamedTuple):
    """The lease of a lane, as Redis has it; None for a field that is missing."""

    lane: Lane
    holder: str | None
    until: str | None


def by_worker(leases: Iterable[Lease], now: int) -> dict[str, list[int]]:
    """Numbers of the lanes that each worker applies `now` (microseconds), in order, by the part of its name before the
    `@`."""
    found: dict[str, list[int]] = {}
    for lane, holder, until in sorted(leases, key=lambda lease: lease.lane):
        if holder and until and until.isdecimal() and int(until) > now:
            worker = holder.partition("#")[0].partition("@")[0]
            found.setdefault(worker, []).append(lane.number)
    return found


def read(directory: Directory) -> dict[str, list[int]]:
    """Numbers of the lanes that each worker applies now, by worker name; empty if the journal's Redis does not answer."""
    found = _asked(directory, _leases)
    return by_worker(*found) if found else {}


def ages(directory: Directory) -> list[float] | None:
    """Seconds since the oldest entry of each shard's journals was accepted, 0 if they are empty; None if the journal's Redis
    does not answer."""
    return _asked(directory, _ages)


def _asked(directory: Directory, ask: Callable[[int, str, int], T]) -> T | None:
    """What the journal answers at this port, with this password, for so many shards. None if it does not."""
    try:
        stored = layout.load(directory)
        if stored is None:
            return None
        secrets = layout.load_secrets(directory)
        port = sentinels.journal_port(stored, secrets)
        return None if port is None else ask(port, secrets["redis-journal"], stored.shards)
    except (ClusterError, redis.errors(), OSError):
        return None


def _ages(port: int, password: str, shards: int) -> list[float]:
    """Raises `RedisError`."""
    every = [Lane(shard, number) for shard in range(shards) for number in range(MOST)]
    with redis.client(port, password) as asked, asked.pipeline(transaction=False) as pipe:
        pipe.time()
        for lane in every:
            pipe.zrange(f"journal:{lane}:positions", 0, 0, withscores=True)
        (seconds, microseconds), *found = pipe.execute()
    now = seconds * 1_000_000 + microseconds
    waits = [max(0.0, (now - first[0][1]) / 1e6) if first else 0.0 for first in found]
    return [max(waits[start : start + MOST]) for start in range(0, len(waits), MOST)]


def _leases(port: int, password: str, shards: int) -> tuple[list[Lease], int]:
    """The leases of all lanes, and Redis' time in microseconds. Raises `RedisError`."""
    every = [Lane(shard, number) for shard in range(shards) for number in range(MOST)]
    with redis.client(port, password) as asked, asked.pipeline(transaction=False) as pipe:
        pipe.time()
        for lane in every:
            pipe.hmget(f"journal:{lane}:shift", "holder", "until")
        (seconds, microseconds), *found = pipe.execute()
    return [Lease(lane, *fields) for lane, fields in zip(every, found, strict=True)], seconds * 1_000_000 + microseconds
