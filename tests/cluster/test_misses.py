"""Reads that the cache has missed: concurrent ones share one read of the shard, in a process and between processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from counters.reading import cache, misses, reads
from counters.reading.misses import Misses
from counters.reading.reads import Counter
from runtime import redis
from sharding import topology
from sharding.databases import ShardUnavailable
from tests.support.cluster import Cluster, wait_applied

SECONDS = 20  # for what must happen


class Queries:
    """The queries to the shards, each held until `release`; those of a shard in `failing` fail."""

    of_entries = staticmethod(reads.of_entries)

    def __init__(self) -> None:
        self.keys: list[list[str]] = []
        self.failing: set[int] = set()
        self._free = threading.Event()

    def of_shard(self, shard: int, keys: list[str], consistency: reads.Consistency) -> list[Counter]:
        self.keys.append(keys)
        assert self._free.wait(SECONDS)
        if shard in self.failing:
            raise ShardUnavailable(shard, "of a test")
        return reads.of_shard(shard, keys, consistency)

    def release(self) -> None:
        self._free.set()


@pytest.fixture
def queries(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queries]:
    found = Queries()
    monkeypatch.setattr(misses, "reads", found)
    yield found
    found.release()


@pytest.fixture
def missed(client: httpx.Client, key: str) -> str:
    """A counter of 4 that the cache does not have."""
    wait_applied(client, key, 4)
    redis.cache().delete(f"c:{key}", f"lease:{key}")
    return key


def in_processes(count: int, work: Callable[[list[Misses]], Awaitable[None]]) -> None:
    """Run a coroutine with the reads of several processes: each has a connection, and knows nothing of the others."""

    async def run() -> None:
        connections = [redis.cache_connection() for _ in range(count)]
        try:
            await asyncio.wait_for(work([Misses(one, lambda _: None) for one in connections]), SECONDS)
        finally:
            for connection in connections:
                await connection.close()

    asyncio.run(run())


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_misses_of_a_process_share_a_read_also_one_that_has_begun(
    cluster: Cluster, queries: Queries, missed: str
) -> None:
    async def work(processes: list[Misses]) -> None:
        first = [processes[0].read([missed])[missed] for _ in range(20)]
        await until(lambda: queries.keys)
        later = [processes[0].read([missed])[missed] for _ in range(20)]
        await asyncio.sleep(0.1)
        queries.release()
        assert {(await one).value for one in (*first, *later)} == {4}
        assert queries.keys == [[missed]]

    in_processes(1, work)


def test_misses_of_several_processes_share_a_read(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, queries: Queries, missed: str
) -> None:
    monkeypatch.setattr(misses, "_WAIT_SECONDS", SECONDS)
    monkeypatch.setattr(cache, "_LEASE_MILLISECONDS", 1000 * SECONDS)

    async def work(processes: list[Misses]) -> None:
        asked = [one.read([missed])[missed] for one in processes]
        await until(lambda: queries.keys)
        await asyncio.sleep(0.1)
        queries.release()
        found = [await one for one in asked]
        assert {(one.key, one.value) for one in found} == {(missed, 4)}
        assert queries.keys == [[missed]]
        assert [one.source for one in found].count("cache") == 2, "the others have it from the cache"

    in_processes(3, work)


def test_nobody_waits_for_long_for_another_process(cluster: Cluster, queries: Queries, missed: str) -> None:
    """It may have died with the lease."""
    queries.release()
    redis.cache().set(f"lease:{missed}", 1, px=1000 * SECONDS)

    async def work(processes: list[Misses]) -> None:
        began = asyncio.get_running_loop().time()
        assert (await processes[0].read([missed])[missed]).value == 4
        assert asyncio.get_running_loop().time() - began >= misses._WAIT_SECONDS
        assert queries.keys == [[missed]]

    try:
        in_processes(1, work)
    finally:
        redis.cache().delete(f"lease:{missed}")


def test_keys_that_are_missed_while_a_shard_is_asked_share_the_next_query(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, queries: Queries, key: str
) -> None:
    """A herd of many keys is a few queries; and a query that hangs does not hold up the next."""
    monkeypatch.setattr("sharding.queries._OVERLAP_SECONDS", 1.0)
    keys = [one for n in range(1000) if topology.current().shard_of(one := f"{key}:{n}") == 0][:50]

    async def work(processes: list[Misses]) -> None:
        asked = processes[0].read(keys[:1])
        await until(lambda: queries.keys)
        for one in keys[1:]:
            asked |= processes[0].read([one])
            await asyncio.sleep(0)
        await until(lambda: len(queries.keys) == 2)
        queries.release()
        assert [(await one).key for one in asked.values()] == keys
        assert [len(found) for found in queries.keys] == [1, 49]

    in_processes(1, work)


def test_a_shard_that_fails_fails_its_own_keys_until_they_are_read_again(
    cluster: Cluster, queries: Queries, key: str
) -> None:
    names = [f"{key}:{n}" for n in range(100)]
    mine, other = (next(one for one in names if topology.current().shard_of(one) == shard) for shard in (0, 1))
    queries.failing = {0}
    queries.release()

    async def work(processes: list[Misses]) -> None:
        asked = processes[0].read([mine, other])
        with pytest.raises(ShardUnavailable):
            await asked[mine]
        assert (await asked[other]).value == 0
        queries.failing.clear()
        assert (await processes[0].read([mine])[mine]).value == 0

    in_processes(1, work)
