"""This process's ways to the journal's and the cache's Redis: clients that its threads share, and connections for an
event loop.

Celery has its own connections to its broker. No client retries commands; `LoopConnection` does, once.

A replicated journal has a primary that Sentinels name: each new connection asks them. A write to it is on the disks of
all its replicas once the commands of `confirmation`, sent after it on the same connection, have answered so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import cache as once
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import Any

import hiredis
import structlog
from django.conf import settings
from django_redis import get_redis_connection
from redis import Redis
from redis.asyncio import ConnectionPool as AsyncConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.asyncio.sentinel import SentinelConnectionPool as AsyncSentinelPool
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry
from redis.sentinel import Sentinel

from runtime import breakers
from runtime.resources import owned

log = structlog.get_logger(__name__)

CACHE_TIMEOUT_SECONDS = 0.5  # to connect, and for an answer; after it a read goes on to a replica
_STALL_SECONDS = 0.1  # so late, a timer says that the loop stood still
_LARGE_BYTES = 64 * 1024
SENTINEL_TIMEOUT_SECONDS = 0.3  # likewise; after it the next Sentinel is asked


def _options(timeout: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        "health_check_interval": 0,
    }


def _close(client: Any) -> None:
    """Close the connections of a client, and those to the Sentinels that it asks."""
    client.connection_pool.disconnect()
    for sentinel in getattr(getattr(client.connection_pool, "sentinel_manager", None), "sentinels", ()):
        sentinel.close()


@owned(close=_close)
def journal() -> Any:
    """The journal's client for this process's threads: a `Redis`, untyped because its answers have no useful types."""
    config = settings.TALLY
    options = _options(config.redis_timeout_seconds) | {"retry": Retry(NoBackoff(), 0)}
    if not config.journal_sentinels:
        return Redis.from_url(config.journal_url.get_secret_value(), **options)
    return _sentinels(Sentinel, Retry).master_for(config.journal_service, **_of_primary(), **options)


def _sentinels(kind: Callable[..., Any], retry: Callable[..., Any]) -> Any:
    """redis-py's client of the journal's Sentinels, for threads or for an event loop."""
    config = settings.TALLY
    addresses = [(host, int(port)) for host, _, port in (one.rpartition(":") for one in config.journal_sentinels)]
    password = config.journal_sentinel_password.get_secret_value() or None
    options = _options(SENTINEL_TIMEOUT_SECONDS) | {"retry": retry(NoBackoff(), 0), "password": password}
    tls = {name: value for name, value in _of_primary().items() if name.startswith("ssl")}
    return kind(addresses, sentinel_kwargs=options | tls)


def sentinels() -> Any:
    """The journal's Sentinels, for threads: `sentinels` of it are their clients."""
    return _sentinels(Sentinel, Retry)


def _of_primary() -> dict[str, Any]:
    """What the journal's URL says of a connection, but for the address, which the Sentinels know. They speak TLS if the
    journal does."""
    url = settings.TALLY.journal_url.get_secret_value()
    options: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]
    secure = options.pop("connection_class", None) is not None
    options.pop("host", None)
    options.pop("port", None)
    return options | ({"ssl": True} if secure else {})


def confirmation() -> list[tuple[Any, ...]]:
    """Commands after a write that wait until the journal's replicas have it on disk; none if it has no replicas.

    A replica that gets a write and the question for its acknowledgement together answers before its fsync, and not again
    for a second. WAIT asks first. The answer leaves the replica after the fsync, so WAITAOF's own question comes later.
    """
    replicas = settings.TALLY.journal_replicas
    milliseconds = int(settings.TALLY.redis_timeout_seconds * 400)  # for each of the two
    return [("WAIT", replicas, milliseconds), ("WAITAOF", 1, replicas, milliseconds)] if replicas else []


def is_confirmed(replies: Sequence[Any]) -> bool:
    """Whether the replies to `confirmation` say that all replicas have the write on disk."""
    if not replies:
        return True
    if isinstance(replies[-1], Exception):
        return False
    local, replicas = replies[-1]
    return int(local) >= 1 and int(replicas) >= settings.TALLY.journal_replicas


def open_cache() -> AsyncRedis:
    """Open a client of the cache for the running event loop; the caller closes it."""
    return AsyncRedis.from_url(
        settings.TALLY.cache_url.get_secret_value(),
        **_options(CACHE_TIMEOUT_SECONDS),
        retry=AsyncRetry(NoBackoff(), 0),
    )


class LoopStalled(RedisError):
    """No answer was read in time, because this process itself stood still: it says nothing about the Redis."""


class LoopConnection:
    """One connection to a Redis, for one caller at a time on an event loop.

    redis-py's client takes more than twice the processor time for a command: it has a pool, a retry policy and a timer
    for each read. It opens its connection with the first command.
    """

    def __init__(self, pool: Any, seconds: float) -> None:
        """`pool`: redis-py's, which makes connections. `seconds`: for a whole command, and for a new connection if it needs
        one."""
        self._pool = pool  # a connection that asks Sentinels has but a weak reference to it
        self._connection: AbstractConnection = pool.make_connection()
        self._seconds = seconds

    async def execute(self, *command: Any) -> Any:
        """The reply. Raises `RedisError`: `redis.TimeoutError` if it has not come in time, `LoopStalled` if it may have.

        A connection may have died while nobody used it, so a command on an old connection that breaks is sent again on
        a new one: it must be harmless if it ran twice.
        """
        return _raised((await self._renewing([command]))[0])

    async def execute_each(self, *commands: Sequence[Any]) -> list[Any]:
        """The replies of commands, in one round trip. As `execute`."""
        return [_raised(reply) for reply in await self._renewing(commands)]

    async def evaluate(self, text: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """The reply of a Lua script. As `execute`."""
        return (await self.evaluate_then(text, keys, args, []))[0]

    async def evaluate_then(
        self, text: str, keys: Sequence[Any], args: Sequence[Any], then: Sequence[Sequence[Any]]
    ) -> list[Any]:
        """The reply of a Lua script, and those of commands sent with it: an error of a command is its reply. As
        `execute`."""
        replies = await self._renewing([("EVALSHA", _digest(text), len(keys), *keys, *args), *then])
        if isinstance(replies[0], NoScriptError):
            replies = await self._renewing([("EVAL", text, len(keys), *keys, *args), *then])
        _raised(replies[0])
        return replies

    async def evaluate_each(self, text: str, calls: Sequence[tuple[Sequence[Any], Sequence[Any]]]) -> list[Any]:
        """The replies of a Lua script for each keys and arguments, in one round trip. As `execute`."""
        if not calls:
            return []
        (keys, args), *others = calls
        then = [("EVALSHA", _digest(text), len(names), *names, *values) for names, values in others]
        return [_raised(reply) for reply in await self.evaluate_then(text, keys, args, then)]

    async def close(self) -> None:
        """Close the connection; the next command opens another."""
        await self._connection.disconnect()

    async def _renewing(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        was_connected = self._connection.is_connected
        try:
            return await self._execute(commands)
        except RedisTimeout:
            raise
        except RedisConnectionError as error:
            if not was_connected:
                raise
            log.info("redis_connection_renewed", error=str(error))
            return await self._execute(commands)

    async def _execute(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        connection: Any = self._connection
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._seconds
        try:
            async with asyncio.timeout_at(deadline):
                if not connection.is_connected:
                    await connection.connect()
                await connection.send_packed_command(_packed(connection, commands), check_health=False)
                return [await self._reply() for _ in commands]
        except TimeoutError as error:
            late = loop.time() - deadline
            await connection.disconnect(nowait=True)
            if late > _STALL_SECONDS:
                raise LoopStalled(f"this process stood still for {late:.1f} s") from error
            raise RedisTimeout(f"no answer within {self._seconds} s") from error

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error


def _packed(connection: Any, commands: Sequence[Sequence[Any]]) -> Sequence[bytes]:
    """Commands as bytes. redis-py takes ten times as long, but does not copy what is large."""
    if any(isinstance(part, bytes) and len(part) > _LARGE_BYTES for command in commands for part in command):
        packed: Sequence[bytes] = connection.pack_commands(commands)
        return packed
    return [hiredis.pack_command(tuple(command)) for command in commands]


def _raised(reply: Any) -> Any:
    if isinstance(reply, ResponseError):
        raise reply
    return reply


def hash_of(reply: Any) -> dict[bytes, bytes]:
    """The reply of HGETALL, which is a list in version 2 of the protocol."""
    return dict(reply) if isinstance(reply, dict) else dict(zip(reply[::2], reply[1::2], strict=True))


def pool_of(url: str, seconds: float) -> Any:
    """A pool for a `LoopConnection` to the Redis at a URL, with so many seconds to connect."""
    return AsyncConnectionPool.from_url(url, **_loop_options(seconds))


def _loop_options(seconds: float) -> dict[str, Any]:
    return _options(seconds) | {"socket_timeout": None, "retry": AsyncRetry(NoBackoff(), 0)}


def journal_connection() -> LoopConnection:
    """A connection to the journal."""
    config, seconds = settings.TALLY, settings.TALLY.redis_timeout_seconds
    if not config.journal_sentinels:
        return LoopConnection(pool_of(config.journal_url.get_secret_value(), seconds), seconds)
    asked = _sentinels(AsyncSentinel, AsyncRetry)
    make_pool: Any = AsyncSentinelPool
    return LoopConnection(make_pool(config.journal_service, asked, **_of_primary(), **_loop_options(seconds)), seconds)


def cache_connection() -> LoopConnection:
    """A connection to the cache."""
    pool = pool_of(settings.TALLY.cache_url.get_secret_value(), CACHE_TIMEOUT_SECONDS)
    return LoopConnection(pool, CACHE_TIMEOUT_SECONDS)


@owned(close=_close)
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
            return breakers.cache().call(partial(getattr(cache_unguarded(), command), *args, **kwargs))

        return run


_GUARDED = _Guarded()


def script(folder: Path, name: str) -> str:
    """The text of a package's Lua script, `lua/NAME.lua` in its folder."""
    return (folder / "lua" / f"{name}.lua").read_text()


@owned
def _scripts() -> dict[tuple[Path, str], Any]:
    return {}


def journal_script(folder: Path, name: str) -> Any:
    """A package's script for the journal, to be called with keys and arguments."""
    return _registered(journal(), folder, name)


def cache_script(folder: Path, name: str) -> Any:
    """A package's script for the cache, behind its breaker, to be called with keys and arguments."""
    return partial(_registered(cache_unguarded(), folder, name), client=cache())


def _registered(client: Any, folder: Path, name: str) -> Any:
    known = _scripts()
    if (folder, name) not in known:
        known[folder, name] = client.register_script(script(folder, name))
    return known[folder, name]


@once
def _digest(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()
