"""A cache that was emptied: it has the counters that are read most again, before anybody asks for them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from django.conf import settings

from counters.reading import cache, reads, warming
from runtime import redis
from sharding import databases, topology
from sharding.lanes import Lane
from tests.support.cluster import Cluster, eventually


@pytest.fixture
def apis(cluster: Cluster) -> Iterator[list[httpx.Client]]:
    """A client of each API process."""
    clients = [httpx.Client(base_url=f"http://127.0.0.1:{api['port']}", timeout=60) for api in cluster.processes("api")]
    yield clients
    for client in clients:
        client.close()


@pytest.fixture
def own_turn() -> Iterator[None]:
    """It is nobody's turn to warm."""
    redis.cache().delete("warming")
    yield
    redis.cache().delete("warming")


def warmed(cluster: Cluster) -> float:
    """Counters that the API processes have read to warm the cache."""
    name = "tally_cache_warmed_total"
    lines = [line for api in cluster.processes("api") for line in cluster.metrics(api, name).splitlines()]
    return sum(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def test_an_emptied_cache_is_warmed_with_what_was_read(
    cluster: Cluster, client: httpx.Client, apis: list[httpx.Client], key: str
) -> None:
    """Each process puts what it was asked for. What the shifts had announced is announced again."""
    keys = [f"{key}:{n}" for n in range(40)]
    increments = [{"key": one, "delta": n + 1} for n, one in enumerate(keys)]
    client.post("/v1/increments", json={"increments": increments}).raise_for_status()
    wanted = {one["key"]: one["delta"] for one in increments}

    def read() -> dict[str, int]:
        answers = [apis[n % 2].get(f"/v1/counters/{one}").json() for n, one in enumerate(keys)]
        return {one["key"]: one["value"] for one in answers}

    eventually(lambda: read() == wanted)
    epoch, before = cache.lease([]).epoch, warmed(cluster)
    redis.cache().flushall()
    eventually(lambda: len(cache.entries(keys)) == len(keys), pause=0.02)
    assert {key: cache.parsed(entry).value for key, entry in cache.entries(keys).items()} == wanted
    assert redis.cache().get("epoch") not in (None, epoch.encode())
    eventually(lambda: warmed(cluster) - before >= len(keys))
    for shard in range(2):
        with databases.connection(databases.primary(shard)) as conn:
            committed = reads.rows_of(conn, []).through
        for lane, version in committed.items():
            assert int(redis.cache().get(f"announced:{Lane(shard, lane)}") or 0) >= version > 0


@pytest.mark.limit("TALLY_WARM_KEYS_PER_SECOND")
@pytest.mark.usefixtures("own_turn")
def test_processes_take_turns_so_that_all_together_keep_the_rate(
    cluster: Cluster, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings.TALLY, "warm_keys_per_second", 10)
    began = time.monotonic()
    first = [f"{key}:{n}" for n in range(8)]
    assert eventually(lambda: warming._take_turn(first)) == 8  # the cluster's processes may still be at it
    other = [f"{key}:{n}" for n in range(5, 15)]
    assert eventually(lambda: warming._take_turn(other)) == 7, "what another process has read is not read again"
    assert time.monotonic() - began >= 0.8
    assert warming._take_turn(other) == 0, "it needs no turn if nothing is missing"
    assert topology.current().by_shard(other).keys() == {0, 1}


def test_a_cache_that_was_cleared_has_another_epoch(cluster: Cluster) -> None:
    """A restore clears it: what was read most is read again."""
    before = cache.lease([]).epoch
    assert cache.lease([]).epoch == before
    redis.cache().set(f"{cache.ROOMS}test", 1)
    cache.clear()
    assert cache.lease([]).epoch != before
    assert redis.cache().get(f"{cache.ROOMS}test") is None, "what other rooms know may be of writes that are gone"
