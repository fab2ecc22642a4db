"""Reads that a replica's lag must not spoil: a replica that lags is left out, and `?after=` is never older than
asked."""

from __future__ import annotations

import time
from typing import Any

import httpx
import psutil
import pytest

from replication import patroni
from runtime import redis
from tests.support.cluster import Cluster, eventually
from tests.support.shards import SHARD, URL, delayed, key_on, one_of

pytestmark = pytest.mark.usefixtures("whole")


def test_a_replica_is_delayed(client: httpx.Client, key: str) -> None:
    key = key_on(SHARD, key)
    with delayed(client, "700ms..900ms") as said:
        assert 700 <= said["apply_delay_ms"] <= 900
        client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 20}).raise_for_status()
        row = one_of(client, "replica")
        assert row["replay"]["bytes"] > 0
        assert row["flush"]["bytes"] == 0, "it flushes at once"
        eventually(lambda: one_of(client, "replica")["apply_delay_ms"] == said["apply_delay_ms"])


@pytest.mark.parametrize("delay", ["", "1", "500ms..50ms", "2h", 5])
def test_a_bad_delay_is_refused(client: httpx.Client, delay: Any) -> None:
    answer = client.put(f"{URL}/replicas/{one_of(client, 'replica')['node']}/delay", json={"delay": delay})
    assert (answer.status_code, "delay" in answer.text) == (400, True), answer.text


def test_a_replica_that_lags_is_left_out_of_reads_and_comes_back(
    cluster: Cluster, client: httpx.Client, key: str
) -> None:
    key = key_on(SHARD, key)

    def source() -> str:
        redis.cache().delete(f"c:{key}")
        found: str = client.get(f"/v1/counters/{key}").json()["source"]
        return found

    eventually(lambda: source() == "replica")
    with delayed(client, "8s"):
        for turn in range(1, 31):
            write = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 20}).json()
            assert write["value"] == turn
            time.sleep(0.1)
        for _ in range(10):  # the limit is 2 s, and 3 s have passed
            redis.cache().delete(f"c:{key}")
            read = client.get(f"/v1/counters/{key}").json()
            assert (read["source"], read["value"]) == ("primary", 30)
    eventually(lambda: source() == "replica", 30)


def test_a_replica_is_read_after_a_quiet_time(client: httpx.Client, key: str) -> None:
    """It applies each commit within half a second. That the commit before was made long ago does not make it late."""

    def sources(seconds: float) -> set[str]:
        until, found = time.monotonic() + seconds, set()
        while time.monotonic() < until:
            found.add(client.get(f"/v1/counters/{key_on(SHARD, f'{key}:{time.monotonic()}')}").json()["source"])
        return found

    with delayed(client, "400ms"):
        eventually(lambda: sources(1) == {"replica"})
        assert sources(3) == {"replica"}
        client.post(
            f"/v1/counters/{key_on(SHARD, key)}/increments", json={"delta": 1}, params={"wait": 20}
        ).raise_for_status()
        assert sources(1) == {"replica"}


def test_a_read_after_a_write_is_never_older(client: httpx.Client, key: str) -> None:
    """Whatever lags: the answer has every write so far of the one who asks."""
    key, other = key_on(SHARD, key), key_on(SHARD, f"{key}:other")
    sources = set()
    with delayed(client, "150ms"):
        for turn in range(1, 16):
            write = client.post(
                "/v1/increments", json={"increments": [{"key": one, "delta": 1} for one in (key, other)]}
            ).json()
            read = client.get(f"/v1/counters/{key}", params={"after": write["id"]})
            assert (read.status_code, read.json()["value"]) == (200, turn), read.text
            many = client.get(
                "/v1/counters", params={"key": [other, key], "after": write["id"], "consistency": "primary"}
            ).json()
            assert [one["value"] for one in many["results"]] == [turn, turn]
            sources.add(read.json()["source"])
            time.sleep(0.2 if turn % 2 else 0)
    write = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}).json()
    eventually(lambda: client.get(f"/v1/counters/{key}", params={"after": write["id"]}).json()["source"] == "replica")
    assert "cache" not in sources


def test_a_read_after_a_write_on_several_shards(client: httpx.Client, key: str) -> None:
    keys = [key_on(0, key), key_on(1, key)]
    write = client.post("/v1/increments", json={"increments": [{"key": one, "delta": 4} for one in keys]}).json()
    many = client.get("/v1/counters", params={"key": [*keys, f"{key}:never"], "after": write["id"]})
    assert [one["value"] for one in many.json()["results"]] == [4, 4, 0]
    elsewhere = client.post(f"/v1/counters/{keys[0]}/increments", json={"delta": 1}).json()
    assert client.get(f"/v1/counters/{keys[1]}", params={"after": elsewhere["id"]}).json()["value"] == 4


def test_a_read_after_a_write_that_is_not_applied_says_so(cluster: Cluster, client: httpx.Client, key: str) -> None:
    key = key_on(SHARD, key)
    client.put(f"/v1/counters/{key}", json={"value": 1}).raise_for_status()
    workers = [psutil.Process(one["pid"]) for one in cluster.processes("worker", SHARD)]
    for worker in workers:
        worker.suspend()
    try:
        write = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}).json()
        started = time.monotonic()
        read = client.get(f"/v1/counters/{key}", params={"after": write["id"], "wait": 0.5})
        assert 0.4 < time.monotonic() - started < 3
        assert (read.status_code, read.json()) == (202, {"id": write["id"], "status": "queued", "shards": [SHARD]})
        assert client.get(f"/v1/counters/{key}").json()["value"] == 1, "without `after` nobody waits"
    finally:
        for worker in workers:
            worker.resume()
    read = client.get(f"/v1/counters/{key}", params={"after": write["id"]})
    assert (read.status_code, read.json()["value"]) == (200, 2)


@pytest.mark.parametrize(
    ("after", "status"), [("x", 400), ("", 400), (f"{'0' * 32}-0-0", 404), (f"{'0' * 32}-0-9", 404)]
)
def test_a_read_after_what_is_no_write(client: httpx.Client, key: str, after: str, status: int) -> None:
    started = time.monotonic()
    for path, params in ((f"/v1/counters/{key}", {}), ("/v1/counters", {"key": key})):
        answer = client.get(path, params={**params, "after": after})
        assert answer.status_code == status, answer.text
    assert time.monotonic() - started < 3
    assert client.get("/v1/counters", params={"prefix": key, "after": after}).status_code == 400


def test_nobody_without_the_password_steers(cluster: Cluster) -> None:
    """Patroni itself asks for it: the settings of this process are those of the cluster."""
    node = patroni.leader(SHARD)
    assert httpx.patch(f"{node.url}/config", json={"loop_wait": 2}).status_code == 401
