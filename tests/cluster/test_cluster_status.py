"""`cluster status`: what the command prints is what the tests look at in its place, and it is true."""

from __future__ import annotations

import json
from typing import Any

import psutil
from redis import Redis

from tests.support.cluster import Cluster, eventually


def said(cluster: Cluster) -> dict[str, Any]:
    """What the command prints."""
    found: dict[str, Any] = json.loads(cluster.manage("cluster", "status", "--json", "--dir", str(cluster.dir)).stdout)
    return found


def without_lanes(answer: dict[str, Any]) -> dict[str, Any]:
    """The same answer for workers that apply nothing: who applies what changes many times a second."""
    return {**answer, "processes": [{**row, "lanes": []} for row in answer["processes"]]}


def test_the_command_says_what_tests_look_at(cluster: Cluster) -> None:
    eventually(cluster.all_running, 60)
    eventually(lambda: without_lanes(said(cluster)) == cluster.status())
    rows = cluster.status()["processes"]
    assert {
        "etcd",
        "patroni",
        "postgres",
        "redis-journal",
        "redis-cache",
        "redis-broker",
        "nginx",
        "api",
        "worker",
        "spill-worker",
        "beat",
        "flower",
        "disks",
    } == {one["role"] for one in rows}
    assert all(psutil.pid_exists(one["pid"]) for one in rows)


def test_a_worker_has_the_lanes_whose_leases_name_it(cluster: Cluster) -> None:
    with Redis.from_url(cluster.env["TALLY_JOURNAL_URL"]) as redis:
        key = "journal:1.15:shift"  # a shard of a new cluster has fewer lanes: nobody else writes this lease
        hour = (redis.time()[0] + 3600) * 1_000_000
        redis.hset(key, mapping={"holder": "worker-1-1@a.host.elsewhere#0a1b", "until": hour})
        try:
            lanes = {row["name"]: row["lanes"] for row in said(cluster)["processes"]}
            table = cluster.manage("cluster", "status", "--dir", str(cluster.dir)).stdout
        finally:
            redis.delete(key)
    assert 15 in lanes["worker-1-1"]
    assert not any(applied for name, applied in lanes.items() if not name.startswith("worker-"))
    assert next(line for line in table.splitlines() if line.startswith("worker-1-1")).split()[-1] == "15"
    assert f"Flower, each task: http://127.0.0.1:{cluster.named('flower')[0]['port']}/" in table
