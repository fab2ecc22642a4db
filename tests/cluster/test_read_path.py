"""Reads: where they come from, and that a cached value never goes back."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pybreaker import STATE_OPEN

from counters.reading import cache
from runtime import redis
from sharding.breakers import SharedStorage
from sharding.lanes import Lane, number_of
from sharding.slots import slot_of
from tests.support.cluster import Cluster, eventually, wait_applied


@pytest.mark.smoke
def test_sources(client: httpx.Client, key: str) -> None:
    wait_applied(client, key, 4)
    assert client.get(f"/v1/counters/{key}").json()["source"] == "cache"
    assert client.get(f"/v1/counters/{key}", params={"consistency": "primary"}).json()["source"] == "primary"

    def from_replica() -> bool:
        redis.cache().delete(f"c:{key}")
        read = client.get(f"/v1/counters/{key}").json()
        return bool(read["source"] == "replica" and read["value"] == 4)

    eventually(from_replica)
    assert client.get(f"/v1/counters/{key}").json()["source"] == "cache"


@pytest.mark.smoke
def test_multi_get_keeps_the_order(client: httpx.Client, key: str) -> None:
    keys = [f"{key}:{n}" for n in range(30)]
    client.post(
        "/v1/increments", json={"increments": [{"key": one, "delta": n} for n, one in enumerate(keys)]}
    ).raise_for_status()
    random.shuffle(keys)
    wanted = [*keys, f"{key}:never"]

    def values() -> list[int]:
        answer = client.get("/v1/counters", params={"key": wanted, "consistency": "primary"}).raise_for_status().json()
        assert [one["key"] for one in answer["results"]] == wanted
        assert answer["next"] is None
        return [one["value"] for one in answer["results"]]

    assert eventually(lambda: values() == [*(int(one.rpartition(":")[2]) for one in keys), 0])


def test_multi_get_of_many_long_keys(client: httpx.Client, key: str) -> None:
    keys = [f"{key}:{n}:".ljust(200, "x") for n in range(300)]
    answer = client.get("/v1/counters", params={"key": keys})
    assert answer.status_code == 200, answer.text[:200]
    assert len(answer.json()["results"]) == 300


def test_listing_pages_across_shards(client: httpx.Client, key: str) -> None:
    keys = sorted(f"{key}:{n}" for n in range(57))
    client.post("/v1/increments", json={"increments": [{"key": one, "delta": 1} for one in keys]}).raise_for_status()

    def walk() -> list[str]:
        found: list[str] = []
        cursor: str | None = None
        while True:
            params: dict[str, str | int] = {"prefix": f"{key}:", "limit": 10}
            if cursor:
                params["cursor"] = cursor
            page = client.get("/v1/counters", params=params).raise_for_status().json()
            assert len(page["results"]) <= 10
            found += [one["key"] for one in page["results"]]
            cursor = page["next"]
            if cursor is None:
                return found

    assert eventually(lambda: walk() == keys)
    shards = {client.get(f"/v1/counters/{one}").json()["shard"] for one in keys}
    assert len(shards) == 2


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(1, 9)))
def test_a_cached_value_never_goes_back(cluster: Cluster, order: list[int]) -> None:
    """I5: fills and refreshes in any order leave the newest version."""
    redis.cache().delete("c:test:never-back")
    seen = 0
    for version in order:
        values = [("test:never-back", version * 10, version)]
        if version % 2:
            cache.refresh(Lane(0, 0), values)
        else:
            cache.fill(0, values, {0: version})
        value, cached = cache.get_many(["test:never-back"])["test:never-back"]
        assert cached >= seen
        assert value == cached * 10
        seen = cached
    assert seen == 8


def test_a_cached_read_is_answered_as_any_other(client: httpx.Client, key: str) -> None:
    """The shortcut before the view, and the view."""
    wait_applied(client, key, 4)
    short, long = (
        client.get(f"/v1/counters/{key}"),
        client.get(f"/v1/counters/{key}", params={"consistency": "eventual"}),
    )
    assert short.json()["source"] == "cache"
    assert short.json() == long.json()
    own = {"date", "x-request-id", "tally-node", "ratelimit"}  # nginx may ask two processes
    assert {name: value for name, value in short.headers.items() if name not in own} == {
        name: value for name, value in long.headers.items() if name not in own
    }
    assert client.get(f"/v1/counters/{key}", headers={"Authorization": "Api-Key un.known"}).status_code == 401


def test_what_a_lagging_node_told_is_not_kept_for_long(cluster: Cluster) -> None:
    """The worker may have passed by before the entry was there, so nobody would refresh it."""
    lane = Lane(901, 1)  # no such shard: its shifts would announce, too
    entries, keys = (
        redis.cache(),
        [one for n in range(12_000) if number_of(slot_of(one := f"test:lagging:{n}"), 2) == 1][:5000],
    )
    entries.delete(f"announced:{lane}", *("c:" + key for key in keys))
    assert cache.announce(lane, 100, keys) == []
    cache.fill(lane.shard, [(keys[1], 5, 90)], {0: 500, 1: 99})
    cache.fill(lane.shard, [(keys[4999], 5, 90)], {0: 0, 1: 100})
    assert 0 < entries.pttl("c:" + keys[1]) <= 1000
    assert entries.ttl("c:" + keys[4999]) > 1
    assert cache.announce(lane, 50, keys) == [keys[1], keys[4999]], "what is cached is to be refreshed"
    assert entries.get(f"announced:{lane}") == b"100", "what was announced never goes back"
    life = entries.pttl("c:" + keys[4999])
    cache.fill(lane.shard, [(keys[4999], 5, 90)], {0: 0, 1: 99})
    assert 1000 < entries.pttl("c:" + keys[4999]) <= life, "the same version from a node that lags changes nothing"


def test_a_process_with_a_wrong_clock_opens_no_breaker_for_long(cluster: Cluster, key: str) -> None:
    storage = SharedStorage(STATE_OPEN, redis.cache(), namespace=key)
    try:
        for seconds, seen in ((3600, None), (0, 0), (-3600, -3600)):
            at = datetime.now(UTC) + timedelta(seconds=seconds)
            storage.opened_at = at
            whole = at.replace(microsecond=0) + timedelta(seconds=bool(at.microsecond))
            assert storage.opened_at == (None if seen is None else whole)
    finally:
        redis.cache().delete(*redis.cache().keys(f"{key}*"))


@pytest.mark.parametrize("params", [{}, {"consistency": "eventual"}], ids=["fast path", "view"])
def test_an_entry_in_use_does_not_expire(client: httpx.Client, key: str, params: dict[str, str]) -> None:
    """A read answers from an entry that is due, and has it read again for the reads to come."""
    version = wait_applied(client, key, 4)["version"]
    redis.cache().set(f"c:{key}", f"4 {version} 1", ex=60)

    def renewed() -> bool:  # not while the replica is behind
        assert client.get(f"/v1/counters/{key}", params=params).json()["source"] == "cache"
        return not cache.entries([key])[key].endswith(b" 1")

    assert eventually(renewed)
    assert cache.parsed(cache.entries([key])[key]).due_ms > 1000 * time.time()


def test_versions_seen_by_readers_never_go_back(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """I5 under a race: evictions, fills and writes at once; each reader's `cache` answers rise."""

    def read(_: int) -> list[int]:
        return [
            one["version"] for _ in range(60) if (one := client.get(f"/v1/counters/{key}").json())["source"] == "cache"
        ]

    with ThreadPoolExecutor(6) as pool:
        writing = [pool.submit(wait_applied, client, key) for _ in range(40)]
        reading = list(pool.map(read, range(4)))
        assert all(write.result() for write in writing)
    for versions in reading:
        assert versions == sorted(versions)


@pytest.mark.smoke
@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/v1/schema", "/v1/docs"])
def test_open_pages(cluster: Cluster, path: str) -> None:
    with cluster.client("") as anonymous:
        assert anonymous.get(path).status_code == 200
