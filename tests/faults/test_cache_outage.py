"""The cache's Redis stands still and goes on: nobody reads what it had from before."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import psutil
import pytest

from counters.reading import cache
from tests.support.cluster import Cluster, eventually, wait_applied


@pytest.fixture(autouse=True)
def whole(cluster: Cluster) -> Iterator[None]:
    cluster.wait_until_whole()
    yield
    cluster.wait_until_whole()


def test_a_value_that_was_read_is_not_taken_back(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """What a worker could not put is put as soon as the cache is back, without another write; until then a process that
    has missed the cache reads from a replica."""
    frozen = psutil.Process(cluster.processes("redis-cache")[0]["pid"])
    with httpx.Client(base_url=f"http://127.0.0.1:{cluster.processes('api')[0]['port']}", timeout=60) as api:

        def read() -> tuple[int, str]:
            answer = api.get(f"/v1/counters/{key}").raise_for_status().json()
            return answer["value"], answer["source"]

        wait_applied(client, key, 6)
        eventually(lambda: read() == (6, "cache"))
        frozen.suspend()
        try:
            assert client.put(f"/v1/counters/{key}", json={"value": 7}).status_code == 200
            eventually(lambda: read()[0] == 7)
        finally:
            frozen.resume()
        until = time.monotonic() + cache.DOUBT_SECONDS + 2
        seen = [read()]
        while time.monotonic() < until or seen[-1][1] != "cache":
            seen.append(read())
            assert time.monotonic() < until + 30, "the cache is used again"
            time.sleep(0.01)
    assert {value for value, _ in seen} == {7}
