"""A circuit breaker for each shard and role. All processes share its state through the cache's Redis.

Connection errors count as failures, and damaged data: another server may have it whole. Any other error that PostgreSQL
answers shows that the shard is up. Without the cache's Redis the breakers count as closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psycopg
import structlog
from django.conf import settings
from pybreaker import STATE_CLOSED, CircuitRedisStorage
from redis.exceptions import RedisError

from runtime import redis
from runtime.breakers import Breaker
from runtime.resources import owned
from sharding.databases import ShardUnavailable, shard_of

T = TypeVar("T")

FAILURES = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.DataCorrupted,
    psycopg.errors.IndexCorrupted,
)
log = structlog.get_logger(__name__)


class _SharedStorage(CircuitRedisStorage):
    """pybreaker's storage, but quiet and able to start while Redis is down; its other calls handle that already."""

    logger = structlog.get_logger(__name__).bind(event_of="breaker")

    def _initialize_redis_state(self, state: str) -> None:
        try:
            super()._initialize_redis_state(state)
        except RedisError as error:
            log.warning("breaker_state_unshared", error=str(error))


@owned
def _breakers() -> dict[str, Breaker]:
    """By alias."""
    return {}


def _breaker(alias: str) -> Breaker:
    known = _breakers()
    return known.get(alias) or known.setdefault(alias, _made(alias))


def _made(alias: str) -> Breaker:
    return Breaker(
        alias,
        _SharedStorage(STATE_CLOSED, redis.cache(), namespace=alias),
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
