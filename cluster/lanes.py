"""Which worker applies which lane now, as the leases in the journal's Redis tell.

The lease of a lane is the hash `journal:SHARD.LANE:shift`. `until` is when it runs out, in microseconds since 1970 by
Redis' clock. `holder` is the Celery name of a worker with an id of its shift, `worker-0-1@host#1a2b3c`; it is missing
while a task was only sent. A lane that has had nothing to apply for a moment has no lease.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from sharding.lanes import MOST, Lane

from . import ClusterError, layout, redis, sentinels
from .layout import Directory


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
    try:
        stored = layout.load(directory)
        if stored is None:
            return {}
        secrets = layout.load_secrets(directory)
        port = sentinels.journal_port(stored, secrets)
        return {} if port is None else by_worker(*_leases(port, secrets["redis-journal"], stored.shards))
    except (ClusterError, redis.errors(), OSError):
        return {}


def _leases(port: int, password: str, shards: int) -> tuple[list[Lease], int]:
    """The leases of all lanes, and Redis' time in microseconds. Raises `RedisError`."""
    every = [Lane(shard, number) for shard in range(shards) for number in range(MOST)]
    with redis.client(port, password) as asked, asked.pipeline(transaction=False) as pipe:
        pipe.time()
        for lane in every:
            pipe.hmget(f"journal:{lane}:shift", "holder", "until")
        (seconds, microseconds), *found = pipe.execute()
    return [Lease(lane, *fields) for lane, fields in zip(every, found, strict=True)], seconds * 1_000_000 + microseconds
