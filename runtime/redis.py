"""This process's clients of the journal's and the cache's Redis: shared ones for threads, and ones that an event loop
opens.

Celery has its own connections to its broker. No client retries commands.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django_redis import get_redis_connection
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from runtime import breakers

CACHE_TIMEOUT_SECONDS = 0.5  # to connect, and for an answer; after it a read goes on to a replica


def _options(timeout: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        "health_check_interval": 0,
    }


@once
def journal() -> Any:
    """The journal's client for this process's threads: a `Redis`, untyped because its answers have no useful types."""
    options = _options(settings.TALLY.redis_timeout_seconds)
    return Redis.from_url(settings.TALLY.journal_url.get_secret_value(), **options, retry=Retry(NoBackoff(), 0))


def open_journal() -> AsyncRedis:
    """Open a client of the journal for the running event loop; the caller closes it."""
    options = _options(settings.TALLY.redis_timeout_seconds)
    return AsyncRedis.from_url(
        settings.TALLY.journal_url.get_secret_value(), **options, retry=AsyncRetry(NoBackoff(), 0)
    )


def open_cache() -> AsyncRedis:
    """Open a client of the cache for the running event loop; the caller closes it."""
    options = _options(CACHE_TIMEOUT_SECONDS)
    return AsyncRedis.from_url(settings.TALLY.cache_url.get_secret_value(), **options, retry=AsyncRetry(NoBackoff(), 0))


@once
def cache_unguarded() -> Any:
    """Django's client of the cache (django-redis), without the breaker: for probes and subscriptions."""
    return get_redis_connection("default")


def cache() -> Redis:
    """The cache's client behind its breaker, for single commands and scripts.

    A command raises `redis.ConnectionError` at once while the cache is known to be down.
    """
    return _GUARDED  # type: ignore[return-value]


class _Guarded:
    def __getattr__(self, command: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            return breakers.cache.call(partial(getattr(cache_unguarded(), command), *args, **kwargs))

        return run


_GUARDED = _Guarded()


def script(folder: Path, name: str) -> str:
    """The text of a package's Lua script, `lua/NAME.lua` in its folder."""
    return (folder / "lua" / f"{name}.lua").read_text()
