"""This process's ways to the journal's and the cache's Redis: clients that its threads share, and connections for an
event loop.

Celery has its own connections to its broker. No client retries commands; `LoopConnection` does, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cache as once
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django_redis import get_redis_connection
from redis import Redis
from redis.asyncio import ConnectionPool as AsyncConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry

from runtime import breakers

log = structlog.get_logger(__name__)

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


def open_cache() -> AsyncRedis:
    """Open a client of the cache for the running event loop; the caller closes it."""
    return AsyncRedis.from_url(
        settings.TALLY.cache_url.get_secret_value(),
        **_options(CACHE_TIMEOUT_SECONDS),
        retry=AsyncRetry(NoBackoff(), 0),
    )


class LoopConnection:
    """One connection to a Redis, for one caller at a time on an event loop.

    redis-py's client takes more than twice the processor time for a command: it has a pool, a retry policy and a timer
    for each read. It opens its connection with the first command.
    """

    def __init__(self, url: str, seconds: float) -> None:
        """`seconds`: for a whole command, and for a new connection if it needs one."""
        options = _options(seconds) | {"socket_timeout": None}
        pool: Any = AsyncConnectionPool.from_url(url, **options, retry=AsyncRetry(NoBackoff(), 0))
        self._connection: AbstractConnection = pool.make_connection()
        self._seconds = seconds

    async def execute(self, *command: Any) -> Any:
        """The reply. Raises `RedisError`: `redis.TimeoutError` if it has not come in time.

        A connection may have died while nobody used it, so a command on an old connection that breaks is sent again on
        a new one: it must be harmless if it ran twice.
        """
        was_connected = self._connection.is_connected
        try:
            return await self._execute(command)
        except RedisTimeout:
            raise
        except RedisConnectionError as error:
            if not was_connected:
                raise
            log.info("redis_connection_renewed", error=str(error))
            return await self._execute(command)

    async def evaluate(self, text: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """The reply of a Lua script. As `execute`."""
        try:
            return await self.execute("EVALSHA", _digest(text), len(keys), *keys, *args)
        except NoScriptError:
            return await self.execute("EVAL", text, len(keys), *keys, *args)

    async def close(self) -> None:
        await self._connection.disconnect()

    async def _execute(self, command: Sequence[Any]) -> Any:
        try:
            async with asyncio.timeout(self._seconds):
                await self._connection.send_command(*command, check_health=False)
                return await self._connection.read_response()
        except TimeoutError as error:
            await self._connection.disconnect(nowait=True)
            raise RedisTimeout(f"no answer within {self._seconds} s") from error


def journal_connection() -> LoopConnection:
    """A connection to the journal."""
    return LoopConnection(settings.TALLY.journal_url.get_secret_value(), settings.TALLY.redis_timeout_seconds)


def cache_connection() -> LoopConnection:
    """A connection to the cache."""
    return LoopConnection(settings.TALLY.cache_url.get_secret_value(), CACHE_TIMEOUT_SECONDS)


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


@once
def _digest(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()
