"""Writes are refused while a disk has too little room, and only those that need it.

The disks have room: readings of the test's own say that they have none. `other_clusters/test_full_disk.py` fills one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from runtime import disks
from runtime.disks import Room
from tests.support.cluster import Cluster, eventually, value_of
from tests.support.http import assert_problem
from tests.support.shards import SHARD, key_on, primary_of

OTHER = 1 - SHARD
GIB = 1024**3


class Watcher:
    """Tells in place of the process that watches the disks. `short`: the servers that have too little room."""

    def __init__(self, cluster: Cluster) -> None:
        nodes = [f"127.0.0.1:{row['port']}" for row in cluster.processes("postgres")]
        self._servers = [*nodes, "redis-journal"]
        self.short: set[str] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.3):
            disks.tell({one: Room(GIB // 2, 20 * GIB, one in self.short) for one in self._servers})

    def end(self) -> None:
        self._end.set()
        self._thread.join()


@pytest.fixture
def watcher(cluster: Cluster) -> Iterator[Watcher]:
    cluster.wait_until_whole()
    (own,) = (psutil.Process(one["pid"]) for one in cluster.processes("disks"))
    own.suspend()
    watcher = Watcher(cluster)
    try:
        yield watcher
    finally:
        watcher.end()
        own.resume()
        cluster.wait_until_whole()


def add(client: httpx.Client, key: str, **options: Any) -> httpx.Response:
    return client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, **options)


def everywhere(cluster: Cluster, key: str, status: int) -> None:
    """Wait until every API process answers an increment of this key so. Those that are counted are 0."""
    headers = {"Authorization": f"Api-Key {cluster.key}"}
    urls = [f"http://127.0.0.1:{one['port']}/v1/counters/{key}/increments" for one in cluster.processes("api")]
    eventually(
        lambda: (
            {httpx.post(url, json={"delta": 0}, headers=headers, timeout=10).status_code for url in urls} == {status}
        )
    )


def disks_in(client: httpx.Client) -> tuple[str, str, str]:
    """/health: its status, and what it says of the disks."""
    now = client.get("/health").json()
    one = next(one for one in now["components"] if one["name"] == "disks")
    return now["status"], one["status"], one.get("detail", "")


def refused(cluster: Cluster) -> float:
    name = "tally_writes_refused_total"
    texts = [cluster.metrics(api, name) for api in cluster.processes("api")]
    found = [re.search(rf'^{name}{{reason="disk"}} (\S+)$', text, re.MULTILINE) for text in texts]
    return sum(float(one[1]) for one in found if one)


def test_a_shard_whose_primary_has_no_room(cluster: Cluster, client: httpx.Client, watcher: Watcher, key: str) -> None:
    full, other = key_on(SHARD, key), key_on(OTHER, key)
    add(client, full, params={"wait": 10}).raise_for_status()
    primary = primary_of(cluster, SHARD)
    watcher.short = {f"127.0.0.1:{primary['port']}"}
    everywhere(cluster, full, 503)
    before = refused(cluster)
    answer = add(client, full)
    document = assert_problem(answer, 503, "disk-full")
    assert (document["shard"], answer.headers["Retry-After"]) == (SHARD, "1")
    assert "not taken" in document["detail"]
    for body in (
        {"increments": [{"key": full, "delta": 1}, {"key": other, "delta": 1}]},
        {"keys": [full], "deltas": [1]},
    ):
        assert_problem(client.post("/v1/increments", json=body), 503, "disk-full")
    assert_problem(client.put(f"/v1/counters/{full}", json={"value": 9}), 503, "disk-full")
    assert_problem(client.put(f"/v1/counters/{full}", json={"value": 9}, headers={"If-Match": '"1"'}), 503, "disk-full")
    assert_problem(client.delete(f"/v1/counters/{full}"), 503, "disk-full")
    assert_problem(add(client, full, headers={"Idempotency-Key": key}), 503, "disk-full")
    assert refused(cluster) - before == 7
    assert add(client, other, params={"wait": 10}).json()["value"] == 1
    records = {add(client, other, headers={"Idempotency-Key": f"{key}:{n}"}).status_code for n in range(20)}
    assert records == {202, 503}, "a record belongs to the shard of its own"
    assert value_of(client, full) == 1
    name = f"shard-{SHARD}-node-{primary['name'][-1]}"
    assert eventually(lambda: (now := disks_in(client))[1] == "down" and now) == (
        "degraded",
        "down",
        f"{name} has 0.5 of 20.0 GiB left",
    )
    watcher.short = set()
    everywhere(cluster, full, 202)
    assert add(client, full, params={"wait": 10}).json()["value"] == 2


def test_a_replica_and_then_the_journal_have_no_room(
    cluster: Cluster, client: httpx.Client, watcher: Watcher, key: str
) -> None:
    """A replica's disk is told; a disk of the journal, which has all writes, refuses them all."""
    full, other = key_on(SHARD, key), key_on(OTHER, key)
    ports = {row["port"] for row in cluster.processes("postgres", SHARD)} - {primary_of(cluster, SHARD)["port"]}
    watcher.short = {f"127.0.0.1:{port}" for port in ports}
    eventually(lambda: disks_in(client)[:2] == ("degraded", "down"))
    for _ in range(5):
        assert add(client, full, params={"wait": 10}).status_code == 200
    watcher.short = {"redis-journal"}
    everywhere(cluster, full, 503)
    everywhere(cluster, other, 503)
    document = assert_problem(add(client, other), 503, "disk-full")
    assert "journal" in document["detail"]
    assert "shard" not in document
    watcher.end()  # nobody knows: writes go on, and /health says that
    everywhere(cluster, full, 202)
    everywhere(cluster, other, 202)
    status, disk, detail = eventually(lambda: (now := disks_in(client))[1] == "unknown" and now)
    assert (status, disk) == ("degraded", "unknown")
    assert detail.startswith("nobody watches: shard-0-node-1, ")
    assert add(client, full, params={"wait": 10}).json()["value"] == 6
