"""An event loop's connection to a Redis: broken, slow and cancelled commands leave it usable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from counters.reading import cache
from counters.reading.cache import Found
from runtime import redis
from runtime.redis import LoopConnection
from tests.support.cluster import Cluster

SLEEP = ("BLPOP", "no-such-list", "0.3")


def on_a_loop(cluster: Cluster, work: Callable[[LoopConnection], Awaitable[None]], seconds: float = 5.0) -> None:
    """Run a coroutine with a connection to the cache."""

    async def run() -> None:
        connection = LoopConnection(redis.pool_of(cluster.env["TALLY_CACHE_URL"], seconds), seconds)
        try:
            await work(connection)
        finally:
            await connection.close()

    asyncio.run(run())


def test_a_connection_that_was_closed_is_renewed(cluster: Cluster) -> None:
    async def work(connection: LoopConnection) -> None:
        number = await connection.execute("CLIENT", "ID")
        redis.cache().client_kill_filter(_id=str(number))
        assert await connection.execute("ECHO", "again") == b"again"
        assert await connection.execute("CLIENT", "ID") != number

    on_a_loop(cluster, work)


def test_a_script_is_loaded_where_it_is_unknown(cluster: Cluster, key: str) -> None:
    async def work(connection: LoopConnection) -> None:
        text = f"return {{KEYS[1], ARGV[1]}} -- {key}"
        for _ in range(2):
            assert await connection.evaluate(text, ["a"], ["b"]) == [b"a", b"b"]
        assert redis.cache().script_exists(redis._digest(text)) == [True]

    on_a_loop(cluster, work)


def test_an_error_of_the_server_leaves_the_connection(cluster: Cluster) -> None:
    async def work(connection: LoopConnection) -> None:
        number = await connection.execute("CLIENT", "ID")
        with pytest.raises(ResponseError):
            await connection.execute("NO-SUCH-COMMAND")
        assert await connection.execute("CLIENT", "ID") == number

    on_a_loop(cluster, work)


def test_a_loop_that_stood_still_says_nothing_about_the_redis(cluster: Cluster) -> None:
    """Its look-up misses; the breaker stays closed and the next look-up is answered."""

    async def work(connection: LoopConnection) -> None:
        await connection.execute("PING")
        reading = asyncio.create_task(cache.get_many_on(connection, ["a"]))
        await asyncio.sleep(0)
        time.sleep(0.3)
        assert await reading == Found({}, [])
        redis.cache().set("c:stalled", "7 1 9999999999999")
        assert (await cache.get_many_on(connection, ["stalled"])).values == {"stalled": (7, 1)}

    try:
        on_a_loop(cluster, work, 0.1)
    finally:
        redis.cache().delete("c:stalled")


def test_an_answer_that_is_late_is_not_taken_for_the_next_one(cluster: Cluster) -> None:
    async def work(connection: LoopConnection) -> None:
        with pytest.raises(RedisTimeout, match=r"no answer within 0\.1 s"):
            await connection.execute(*SLEEP)
        await asyncio.sleep(0.4)
        assert await connection.execute("ECHO", "next") == b"next"

    on_a_loop(cluster, work, seconds=0.1)


def test_a_cancelled_command_leaves_no_answer_behind(cluster: Cluster) -> None:
    async def work(connection: LoopConnection) -> None:
        await connection.execute("PING")
        asked = asyncio.create_task(connection.execute(*SLEEP))
        await asyncio.sleep(0.05)
        asked.cancel()
        with suppress(asyncio.CancelledError):
            await asked
        assert await connection.execute("ECHO", "next") == b"next"

    on_a_loop(cluster, work)


def test_a_redis_that_is_down_is_an_error_each_time() -> None:
    async def work() -> None:
        connection = LoopConnection(redis.pool_of("redis://127.0.0.1:1/0", 1.0), 1.0)
        for _ in range(2):
            with pytest.raises(RedisConnectionError):
                await connection.execute("PING")

    asyncio.run(work())
