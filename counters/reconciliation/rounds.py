"""Rounds of reconciliation: a shard's replicas are compared with its primary, the cache with the primaries, and rows that
belong together with each other.

A *round* does all of it for some shards and stores a report for each. It runs every `TALLY_RECONCILE_INTERVAL_SECONDS` as a
Celery task on the low-priority queue, and on `request`. A process runs one round at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock
from time import time
from typing import Any, Protocol

import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from counters.reconciliation import cache_check, checks
from counters.reconciliation.cache_check import CacheCheck
from counters.reconciliation.checks import Checked
from replication import comparisons, digests, healing
from replication.digests import Busy, Round
from runtime import polling, redis
from runtime.broker import broker
from runtime.resources import owned
from sharding.databases import ShardUnavailable

TASK = "counters.reconcile"
QUEUE = "low-priority"
EXPIRES_SECONDS = 60.0
_POLL_SECONDS = 0.1
log = structlog.get_logger(__name__)


class Tell(Protocol):
    """Receives a round's progress."""

    def comparing(self, shard: int, node: str, done: int, of: int) -> None:
        """`done` of `of` ranges of a node have their digest."""

    def checked(self, entries: int) -> None:
        """`entries` more cache entries were checked."""


class Untold:
    """Ignores a round's progress."""

    def comparing(self, shard: int, node: str, done: int, of: int) -> None: ...

    def checked(self, entries: int) -> None: ...


@dataclass(frozen=True)
class Report:
    """The report of a shard's round. `replicas` is None if there was no comparison; `detail` says why."""

    shard: int
    started: float  # by the clock of the cache's Redis
    at: datetime
    replicas: Round | None
    cache: CacheCheck
    detail: str = ""
    checks: dict[str, Checked] = field(default_factory=dict)

    @property
    def equal(self) -> bool | None:
        """True: all was equal, stale cached values aside. False: something differed (wrong cached values were deleted).
        None: nothing differed, but something could not be compared."""
        if self.cache.wrong or (self.replicas and (self.replicas.equal is False or self.replicas.altered)):
            return False
        if any(one.wrong for one in self.checks.values()):
            return False
        is_whole = not self.cache.detail and not any(one.detail for one in self.checks.values())
        return self.replicas.equal if self.replicas and is_whole else None


@owned
def _running() -> Lock:
    """Held during a round."""
    return Lock()


def run(shards: Sequence[int], tell: Tell | None = None) -> list[Report]:
    """Run one round over some shards. Raises `Busy` if a round runs in this process, or elsewhere on one of these
    shards."""
    running = _running()
    if not running.acquire(blocking=False):
        raise Busy("a round is running in this process already")
    try:
        return _run(shards, tell or Untold())
    finally:
        running.release()


def _run(shards: Sequence[int], tell: Tell) -> list[Report]:
    started, at = _started(), datetime.now(UTC)
    compared = {shard: _compare(shard, tell) for shard in shards}
    checked = cache_check.check(shards, tell.checked)
    reports = [
        Report(shard, started, at, compared[shard][0], checked[shard], compared[shard][1], checks.run(shard))
        for shard in shards
    ]
    for report in reports:
        comparisons.store(_key(report.shard), report)
        _log(report)
        if report.replicas:
            _note(report.replicas)
    return reports


def _note(done: Round) -> None:
    """Tell healing of the round. A replica that differs for the first time is compared again at once, to be sure."""
    try:
        if healing.note(done):
            request([done.shard])
    except (RedisError, OperationalError, OSError) as error:
        log.warning("difference_unnoted", shard=done.shard, error=str(error))


def _compare(shard: int, tell: Tell) -> tuple[Round | None, str]:
    try:
        return digests.compare(shard, lambda node, done, of: tell.comparing(shard, node, done, of)), ""
    except ShardUnavailable as error:
        return None, str(error)


def _log(report: Report) -> None:
    say = log.error if report.equal is False else log.warning if report.equal is None else log.info
    found = {
        "checked": report.cache.checked,
        "stale": report.cache.stale,
        "wrong": report.cache.wrong,
        "some": report.cache.keys[:10],
    }
    detail = report.detail or report.cache.detail
    say(
        "shard_reconciled",
        shard=report.shard,
        equal=report.equal,
        cache=found,
        **({"detail": detail} if detail else {}),
    )


def _key(shard: int) -> str:
    return f"reconciliation:{shard}"


def now() -> float:
    """Unix time in seconds by the clock of the cache's Redis, which all processes share. Raises `RedisError`."""
    seconds, micros = redis.cache().time()
    return float(seconds + micros / 1e6)


def _started() -> float:
    try:
        return now()
    except RedisError:  # then `wait` cannot find this round, but replicas are still compared
        return time()


def last(shard: int) -> Report | None:
    """The report of a shard's last round; None if the cache's Redis has none."""
    return comparisons.load(_key(shard), Report)


def request(shards: Sequence[int]) -> float:
    """Request a round. Returns the time of the request, for `wait`. Raises `RedisError`, kombu's `OperationalError`."""
    asked = now()
    arguments: dict[str, Any] = {"shards": list(shards), "asked": asked}
    broker().send_task(TASK, kwargs=arguments, queue=QUEUE, expires=EXPIRES_SECONDS, ignore_result=True, retry=False)
    return asked


def wait(shard: int, asked: float, seconds: float) -> Report | None:
    """Wait for the report of a round that began at `asked` or later. Returns None if there is none within `seconds`."""
    for _ in polling.attempts(seconds, pause=_POLL_SECONDS):
        found = last(shard)
        if found and found.started >= asked:
            return found
    return None
