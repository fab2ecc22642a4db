"""The cache's Redis stands still and goes on: nobody reads what it had from before. It is replaced by an empty one: what
is read most is put there at once."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from uuid import uuid4

import httpx
import psutil
import pytest
from redis import Redis
from redis.exceptions import RedisError

from counters.apply.refresher import Refresher
from counters.limits.limiter import Limiter, QuotaExceeded
from counters.limits.policies import of_address
from counters.reading import cache
from runtime import redis
from runtime.event_loop import LoopThread
from sharding.lanes import Lane
from tests.support.cluster import Cluster, eventually, frozen, wait_applied

pytestmark = pytest.mark.usefixtures("whole")


@pytest.fixture
def entries(cluster: Cluster) -> Iterator[Redis]:
    """What the cache has, whatever this process thinks of it."""
    with Redis.from_url(cluster.env["TALLY_CACHE_URL"], decode_responses=True) as client:
        yield client


def test_what_could_not_be_put_is_put_when_the_cache_is_back(
    cluster: Cluster, client: httpx.Client, entries: Redis, key: str
) -> None:
    """Without another write of its lane, and although nobody reads it: a client that has read 7 does not read 6."""
    with httpx.Client(base_url=f"http://127.0.0.1:{cluster.processes('api')[0]['port']}", timeout=60) as api:

        def read() -> tuple[int, str]:
            answer = api.get(f"/v1/counters/{key}").raise_for_status().json()
            return answer["value"], answer["source"]

        wait_applied(client, key, 6)
        eventually(lambda: read() == (6, "cache"))
        with frozen(*cluster.processes("redis-cache")):
            assert client.put(f"/v1/counters/{key}", json={"value": 7}).status_code == 200
            assert read()[0] == 7
        eventually(lambda: str(entries.get(f"c:{key}")).startswith("7 "))
        seen = [read()]

        def is_cached_again() -> bool:
            seen.append(read())
            return seen[-1][1] == "cache"

        eventually(is_cached_again)
        assert {value for value, _ in seen} == {7}


def test_a_late_value_does_not_live_long_if_a_newer_one_was_announced(
    cluster: Cluster, entries: Redis, key: str
) -> None:
    """Another worker may have committed it while the value waited, and need not have put it: nobody read the key."""
    refresher, lanes = Refresher(), [Lane(902, 0), Lane(903, 0)]  # no such shards

    def is_put() -> bool:
        refresher.put_left()
        return entries.exists(f"c:{key}:{lanes[1]}") == 1

    with frozen(*cluster.processes("redis-cache")):
        assert cache.get_many([key]) == {}
        for lane in lanes:
            refresher.refresh(lane, [(f"{key}:{lane}", 6, 99), (f"{key}:{lane}", 7, 100)])
    entries.set(f"announced:{lanes[0]}", 200)
    try:
        eventually(is_put)
        assert str(entries.get(f"c:{key}:{lanes[1]}")).startswith("7 100 ")
        assert entries.ttl(f"c:{key}:{lanes[1]}") > 1
        assert entries.pttl(f"c:{key}:{lanes[0]}") <= 1000
    finally:
        entries.delete(f"announced:{lanes[0]}")


def test_a_process_that_missed_the_cache_does_not_read_it_at_once(cluster: Cluster, entries: Redis, key: str) -> None:
    """Workers need a moment to put what they could not put; until then entries are from before."""
    entries.set(f"c:{key}", "6 1 0", ex=600)
    eventually(lambda: cache.get_many([key]) == {key: (6, 1)})
    with frozen(*cluster.processes("redis-cache")):
        assert cache.get_many([key]) == {}
    back = time.monotonic()
    assert eventually(lambda: cache.get_many([key])) == {key: (6, 1)}
    assert time.monotonic() - back >= cache.DOUBT_SECONDS


def test_a_cache_that_was_replaced_is_warmed_and_read_at_once(
    cluster: Cluster, client: httpx.Client, entries: Redis, key: str
) -> None:
    """Although the process has missed it: an empty cache has nothing from before."""
    (row,) = cluster.processes("redis-cache")

    def is_warm() -> bool:
        with suppress(RedisError):
            return entries.exists(f"c:{key}") == 1
        return False

    with httpx.Client(base_url=f"http://127.0.0.1:{cluster.processes('api')[0]['port']}", timeout=60) as api:
        wait_applied(client, key, 6)
        eventually(lambda: api.get(f"/v1/counters/{key}").json()["source"] == "cache")
        with frozen(row):
            assert api.get(f"/v1/counters/{key}").json()["source"] == "replica", "it has missed the cache"
            psutil.Process(row["pid"]).kill()
        eventually(is_warm, pause=0.02)
        assert api.get(f"/v1/counters/{key}").json()["source"] == "cache"


def test_nobody_is_limited_while_the_cache_stands_still_and_that_is_told(cluster: Cluster) -> None:
    """Its Redis has the counts. No request waits for it again and again, and afterwards the limits are in force."""
    process = cluster.processes("api")[0]
    api_key = cluster.make_key("read")
    cluster.command("limits", "--key", api_key.partition(".")[0], "--requests", "3")
    headers = {"Authorization": f"Api-Key {api_key}"}

    def let_through() -> float:
        name = "tally_limits_let_through_total"
        found = re.search(rf"^{name} (\S+)$", cluster.metrics(process, name), re.MULTILINE)
        assert found
        return float(found[1])

    with httpx.Client(base_url=f"http://127.0.0.1:{process['port']}", headers=headers, timeout=60) as api:

        def status() -> int:
            return api.get("/v1/writes/x").status_code  # which is refused before it reads anything

        eventually(lambda: status() == 429, 15)
        before = let_through()
        with frozen(*cluster.processes("redis-cache")):
            eventually(lambda: status() == 400)
            began = time.monotonic()
            assert {status() for _ in range(20)} == {400}
            assert time.monotonic() - began < 2, "each would wait half a second"
            assert let_through() - before >= 20
            eventually(lambda: api.get("/health").json()["status"] == "degraded")
        eventually(lambda: status() == 429)


def test_limits_are_in_force_again_although_a_request_waited_behind_the_first_that_failed(cluster: Cluster) -> None:
    """Its round trip is under way when this process looks whether the Redis is back."""
    policy, caller = of_address(3).requests, uuid4().hex

    async def begun() -> Limiter:
        return Limiter(redis.cache_connection())

    with LoopThread("limits") as thread:
        limiter = thread.run(begun())

        def taken() -> Future[None]:
            return asyncio.run_coroutine_threadsafe(limiter.take(policy, caller), thread.loop)

        def is_over() -> bool:
            try:
                taken().result()
            except QuotaExceeded:
                return True
            return False

        taken().result()
        with frozen(*cluster.processes("redis-cache")):
            keeping = asyncio.run_coroutine_threadsafe(limiter.keep(), thread.loop)
            first = taken()
            time.sleep(0.1)
            behind = taken()
            first.result()  # let through
            behind.result()
            time.sleep(1)
        eventually(is_over, 15)
        assert keeping.cancel(), "it has ended"
        thread.run(limiter.close())
