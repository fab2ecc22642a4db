"""An operator finds within a minute, from the status page alone, which part is down: ten faults. An eleventh, nginx, is
seen from an open page: `test_faults`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import pytest

from cluster import state
from cluster.layout import Directory
from tests.support.cluster import Cluster, eventually
from tests.support.shards import patroni_of, primary_of
from tests.support.status import assert_status_names, troubles

pytestmark = pytest.mark.usefixtures("whole")


@contextmanager
def unsupervised(cluster: Cluster) -> Iterator[None]:
    """Nothing that is killed is started again."""
    supervisor = psutil.Process(state.current(Directory(cluster.dir)).supervisor["pid"])
    supervisor.suspend()
    try:
        yield
    finally:
        supervisor.resume()


def kill(row: dict[str, Any]) -> None:
    os.kill(row["pid"], signal.SIGKILL)


def test_each_of_ten_faults_is_named(cluster: Cluster) -> None:
    """One after the other, in an order in which none hides the next."""
    (named,) = cluster.named("api-1")
    primary = primary_of(cluster, 0)
    replica = next(one for one in cluster.processes("postgres", 1) if one["name"] != primary_of(cluster, 1)["name"])
    follower, leader = f"shard-1-node-{replica['name'][-1]}", f"shard-0-node-{primary['name'][-1]}"
    one: Callable[[str], dict[str, Any]] = lambda name: cluster.named(name)[0]  # noqa: E731
    faults = [
        ([one("api-2")], "api-2", "silent for"),
        ([one("worker-0-1")], "shard-0-worker", "no worker runs"),
        ([one("beat")], "beat", "it has sent no task for"),
        ([one("redis-broker")], "broker", "no answer"),
        ([patroni_of(cluster, 1, replica["name"])], follower, "its Patroni does not answer"),
        ([replica], follower, "it does not stream from its primary"),
        ([one("redis-cache")], "cache", "no answer"),
        ([patroni_of(cluster, 0, primary["name"]), primary], leader, "no primary answers"),
        (cluster.processes("etcd"), "etcd", "no Patroni has reached it for"),
        ([one("redis-journal")], "journal", "no answer"),
    ]
    follows = {
        "broker": {"shard-1-worker", "spill-worker"},  # which get no messages
        follower: {"shard-1-replica"},
        leader: {"shard-0", "shard-0-replica", "shard-0-node-1", "shard-0-node-2", "control"},
        "etcd": {"shard-1", "shard-1-node-1", "shard-1-node-2", "shard-1-replica"},  # Patroni demotes without it
        "journal": {"beat", "disks", "shard-0-worker", "shard-1-worker", "spill-worker"},
    }
    with httpx.Client(base_url=f"http://127.0.0.1:{named['port']}", timeout=30) as api, unsupervised(cluster):
        eventually(lambda: not troubles(api))
        explained: set[str] = set()
        for victims, part, said in faults:
            for victim in victims:
                kill(victim)
            explained |= {part} | follows.get(part, set())
            assert assert_status_names(api, part, said).keys() <= explained, "nothing else is blamed"
            if part == "beat":  # recorded by a worker, for who comes later
                eventually(lambda: "beat</th><td>up → down" in api.get("/status").text)
