"""Results of comparisons, stored in the cache's Redis and published in metrics and the log.

If Redis is down or has evicted a result, there is none until the next round.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

import msgspec
import structlog
from prometheus_client import Counter, Gauge
from redis.exceptions import RedisError

from replication.digest import Difference
from runtime import redis

DIFFERING = Gauge(
    "tally_replica_differing_keys",
    "Counters and other rows that the replica has otherwise than its primary",
    ["shard", "node"],
)
UNREADABLE = Gauge(
    "tally_replica_unreadable", "1 if the replica's rows could not be read: damaged data", ["shard", "node"]
)
COMPARED = Gauge(
    "tally_replica_compared_at_seconds",
    "When the replica was last compared with its primary (Unix time)",
    ["shard", "node"],
)
ALTERED = Counter("tally_shard_altered_slots_total", "Slots whose counters were changed, but not by Tally", ["shard"])
log = structlog.get_logger(__name__)

_KEEP_SECONDS = 30 * 24 * 3600

T = TypeVar("T")


@dataclass(frozen=True)
class Comparison:
    """A replica compared with its primary. `equal` is None if they could not be compared; `detail` says why.

    `digest` covers each lane at its own moment, one that both servers showed. `version` and `lsn` come from the last
    snapshot, so no lane's moment is newer. While nothing is written, all moments are the same. `differing` counts at
    most 10,000 keys of all tables; `differences` has the first 100 of them. `digest` and `counters` are about counters alone.
    """

    node: str
    equal: bool | None
    at: datetime
    detail: str = ""
    version: int = 0  # the newest that the replica had applied in any lane
    lsn: str = ""  # the replica's WAL position then
    digest: str = ""
    counters: int = 0
    differing: int = 0
    differences: tuple[Difference, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The first 100 keys that differ."""
        return tuple(difference.key for difference in self.differences)


@dataclass(frozen=True)
class Round:
    """A shard's replicas, each compared with the primary. `altered`: slots changed since the previous round, but not by
    Tally.

    `version`, `lsn` and `digest` are the primary's, with the same meaning as in `Comparison`. `rows`: how many of other
    tables were compared.
    """

    shard: int
    at: datetime  # start of the round
    seconds: float
    primary: str
    version: int
    lsn: str
    digest: str
    counters: int
    comparisons: tuple[Comparison, ...]
    altered: tuple[int, ...] = ()
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def equal(self) -> bool | None:
        """Whether every replica equals the primary; None if none differs but one could not be compared."""
        found = {comparison.equal for comparison in self.comparisons}
        return False if False in found else None if None in found else True


def publish(done: Round) -> None:
    """Publish a round in metrics and in the log."""
    for one in done.comparisons:
        labels = (done.shard, one.node)
        if one.equal is not None:
            DIFFERING.labels(*labels).set(one.differing)
            UNREADABLE.labels(*labels).set(one.equal is False and not one.differing)
            COMPARED.labels(*labels).set(one.at.timestamp())
        if one.equal is False:
            log.error(
                "replica_differs",
                shard=done.shard,
                node=one.node,
                keys=one.differing,
                some=one.keys[:10],
                detail=one.detail,
            )
        elif one.equal is None:
            log.warning("replica_not_compared", shard=done.shard, server=one.node, detail=one.detail)
    if done.altered:
        ALTERED.labels(done.shard).inc(len(done.altered))
        log.error("shard_altered", shard=done.shard, slots=len(done.altered), some=done.altered[:10])


def _round_key(shard: int) -> str:
    return f"reconciliation:{shard}:replicas"


def keep(done: Round) -> None:
    """Store a round as its shard's last one."""
    store(_round_key(done.shard), done)


def store(key: str, value: Any) -> None:
    """Store a result as JSON for 30 days. If Redis fails, this only logs a warning."""
    try:
        redis.cache().set(key, msgspec.json.encode(value), ex=_KEEP_SECONDS)
    except RedisError as error:
        log.warning("reconciliation_unkept", key=key, error=str(error))


def load(key: str, kind: type[T]) -> T | None:
    """A stored result; None if there is none or it cannot be read."""
    try:
        data: Any = redis.cache().get(key)
        return None if data is None else msgspec.json.decode(data, type=kind)
    except (RedisError, msgspec.DecodeError) as error:
        log.warning("reconciliation_unread", key=key, error=str(error))
        return None


def last_round(shard: int) -> Round | None:
    """The last round of a shard; None if the cache's Redis has none."""
    return load(_round_key(shard), Round)


def latest(shard: int) -> dict[str, Comparison]:
    """The last comparison of each replica of a shard, by Patroni's member name; {} if no round is stored."""
    done = last_round(shard)
    return {one.node: one for one in done.comparisons} if done else {}
