"""A circuit breaker for each shard and role, its state shared by all processes through the cache's Redis (pybreaker).

A shard that is down costs one process one time-out, not each request its own. Only trouble with the connection counts as failure:
a query that PostgreSQL answered with an error shows that the shard is up.

The two Redis have breakers too, in this process's memory: while one hangs, it is not asked again and again (`cache_redis`, `guard`).
Without the cache's, the shards' breakers count as closed.

pybreaker holds a breaker's lock for the whole call, so one object would let one thread at a time through: each thread has
its own, over the same state.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from threading import local
from typing import Any, TypeVar

import psycopg
import structlog
from django.conf import settings
from django_redis import get_redis_connection
from prometheus_client import Counter, Gauge
from pybreaker import (
    STATE_CLOSED,
    CircuitBreaker,
    CircuitBreakerError,
    CircuitBreakerListener,
    CircuitBreakerStorage,
    CircuitMemoryStorage,
    CircuitRedisStorage,
)
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from runtime import event_loop
from sharding.databases import ShardUnavailable, shard_of

T = TypeVar("T")

CACHE = "cache"
JOURNAL = "journal"
_IN_MEMORY = {CACHE, JOURNAL}
log = structlog.get_logger(__name__)
FAILURES = Counter("tally_component_failures_total", "Calls that failed for the connection's sake", ["component"])
OPEN = Gauge("tally_breaker_open", "1 while the breaker of this component is open, as this process last saw it", ["component"])


class _Listener(CircuitBreakerListener):
    def state_change(self, cb: CircuitBreaker, _old_state: object, new_state: object) -> None:
        OPEN.labels(cb.name).set(getattr(new_state, "name", "") == "open")

    def failure(self, cb: CircuitBreaker, exc: BaseException) -> None:
        FAILURES.labels(cb.name).inc()
        log.warning("component_failed", component=cb.name, error=str(exc).strip())


class _SharedStorage(CircuitRedisStorage):
    """pybreaker's own, but quiet and able to start while Redis is away; its other calls fall back by themselves."""

    logger = structlog.get_logger(__name__).bind(event_of="breaker")

    def _initialize_redis_state(self, state: str) -> None:
        try:
            super()._initialize_redis_state(state)
        except RedisError as error:
            log.warning("breaker_state_unshared", error=str(error))


class _GuardedRedis:
    """The cache's Redis behind its breaker: each command raises `RedisConnectionError` at once while it is known to be away."""

    def __getattr__(self, command: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            return guard(CACHE, partial(getattr(_cache_client(), command), *args, **kwargs))

        return run


def guard(name: str, function: Callable[[], T]) -> T:
    """Run a function that talks to one Redis; raises `RedisConnectionError` at once within a second after it gave no answer."""
    event_loop.forbid()
    try:
        return _breaker(name).call(function)
    except CircuitBreakerError as error:
        raise RedisConnectionError(f"the {name}'s Redis is away: {error}") from error


def cache_redis() -> Redis:
    """The cache's Redis, guarded. For single commands and scripts (`pipeline` and `pubsub` objects are not guarded)."""
    return _GUARDED  # type: ignore[return-value]


_GUARDED = _GuardedRedis()
_threads = local()


@cache
def _cache_client() -> Redis:
    client: Redis = get_redis_connection("default")
    return client


@cache
def _storage(name: str) -> CircuitBreakerStorage:
    if name in _IN_MEMORY:
        return CircuitMemoryStorage(STATE_CLOSED)
    return _SharedStorage(STATE_CLOSED, cache_redis(), namespace=name)


def _breaker(name: str) -> CircuitBreaker:
    breakers: dict[str, CircuitBreaker] = _threads.__dict__
    if name not in breakers:
        is_redis = name in _IN_MEMORY
        breakers[name] = CircuitBreaker(
            fail_max=1 if is_redis else settings.TALLY.breaker_failures,
            reset_timeout=1 if is_redis else settings.TALLY.breaker_reset_seconds,
            exclude=[_redis_answered if is_redis else _database_answered],
            listeners=[_Listener()],
            name=name,
            state_storage=_storage(name),
        )
    return breakers[name]


def _database_answered(error: BaseException) -> bool:
    return not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def _redis_answered(error: BaseException) -> bool:
    return not isinstance(error, RedisConnectionError | TimeoutError | OSError | RedisTimeout)


def call(alias: str, function: Callable[[], T]) -> T:
    """Run a function that talks to one database behind its breaker. Raises `ShardUnavailable`, or what the function raised."""
    event_loop.forbid()
    try:
        return _breaker(alias).call(function)
    except CircuitBreakerError as error:
        raise ShardUnavailable(shard_of(alias), f"{alias}: {error}") from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise ShardUnavailable(shard_of(alias), f"{alias}: {str(error).strip()}") from error
