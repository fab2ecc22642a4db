"""A circuit breaker for each shard and role. All processes share its state through the cache's Redis.

Connection errors count as failures, and damaged data: another server may have it whole. Any other error that PostgreSQL
answers shows that the shard is up. Without the cache's Redis the breakers count as closed. An ordered change of the primary
closes the shard's breakers (`close`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from math import ceil
from typing import TypeVar

import psycopg
import structlog
from django.conf import settings
from pybreaker import STATE_CLOSED, CircuitRedisStorage
from redis.exceptions import RedisError

from runtime import redis
from runtime.breakers import SKEW, Breaker, unless_future
from runtime.resources import owned
from runtime.seldom import Seldom
from sharding import databases
from sharding.databases import ShardUnavailable, shard_of

T = TypeVar("T")

FAILURES = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.DataCorrupted,
    psycopg.errors.IndexCorrupted,
)
_WHOLE = timedelta(seconds=1)  # by which `opened_at` is rounded up at most
log = structlog.get_logger(__name__)
_seldom = Seldom()


class _Unshared:
    """pybreaker's logger: it tells of every call, with a traceback, that Redis has no state. The cache's own breaker says
    why."""

    def exception(self, text: str) -> None:
        _seldom.log(log.warning, "breaker_state_unshared", error=text)


class SharedStorage(CircuitRedisStorage):
    """pybreaker's storage, but quiet and able to start while Redis is down; its other calls handle that already. For
    processes of which one may have a wrong clock: its time must not last.

    pybreaker keeps whole seconds. They are rounded up, so a breaker stays open for at least as long as it should.
    """

    logger = _Unshared()  # type: ignore[assignment]

    def _initialize_redis_state(self, state: str) -> None:
        try:
            super()._initialize_redis_state(state)
        except RedisError as error:
            _seldom.log(log.warning, "breaker_state_unshared", error=str(error))

    @property
    def opened_at(self) -> datetime | None:
        found: datetime | None = CircuitRedisStorage.opened_at.__get__(self)
        return unless_future(found, SKEW + _WHOLE)

    @opened_at.setter
    def opened_at(self, at: datetime) -> None:
        try:
            self._redis.set(self._namespace("opened_at"), ceil(at.timestamp()))
        except RedisError as error:
            _seldom.log(log.warning, "breaker_state_unshared", error=str(error))

    def may_probe(self, seconds: int) -> bool:
        """One call of all processes, or one of each while Redis does not answer."""
        try:
            return bool(self._redis.set(self._namespace("probe"), 1, nx=True, ex=seconds))
        except RedisError:
            return True


def every() -> list[Breaker]:
    """The breakers of all shards and roles."""
    return [_breaker(alias) for shard in range(settings.TALLY.shard_count) for alias in _aliases(shard)]


def close(shard: int) -> None:
    """Let calls to a shard through, whatever the last ones met: another server is its primary now."""
    for alias in _aliases(shard):
        _breaker(alias).close()


@owned
def _breakers() -> dict[str, Breaker]:
    """By alias."""
    return {}


def _aliases(shard: int) -> list[str]:
    return [alias for alias in (databases.primary(shard), databases.replica(shard)) if alias]


def _breaker(alias: str) -> Breaker:
    known = _breakers()
    return known.get(alias) or known.setdefault(alias, _made(alias))


def _made(alias: str) -> Breaker:
    return Breaker(
        alias,
        SharedStorage(STATE_CLOSED, redis.cache(), namespace=alias),
        failures=settings.TALLY.breaker_failures,
        reset_seconds=settings.TALLY.breaker_reset_seconds,
        is_failure=lambda error: isinstance(error, FAILURES),
        refusal=lambda reason: ShardUnavailable(shard_of(alias), reason),
    )


def call(alias: str, function: Callable[[], T]) -> T:
    """Run a function that uses one database behind the database's breaker. Raises `ShardUnavailable`, or what the
    function raises."""
    try:
        return _breaker(alias).call(function)
    except FAILURES as error:
        raise ShardUnavailable(shard_of(alias), f"{alias}: {str(error).strip()}") from error
