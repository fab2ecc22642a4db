"""`cluster status`: what the command prints is what the tests look at in its place, and it is true."""

from __future__ import annotations

import json
from typing import Any

import psutil

from tests.conftest import Cluster, eventually


def test_the_command_says_what_tests_look_at(cluster: Cluster) -> None:
    eventually(cluster.all_running, 60)

    def said() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(cluster.manage("cluster", "status", "--json", "--dir", str(cluster.dir)).stdout)
        return found

    eventually(lambda: said() == cluster.status())
    rows = cluster.status()["processes"]
    assert {"etcd", "patroni", "postgres", "redis-journal", "redis-cache", "nginx", "api", "worker", "spill-worker", "beat", "flower"} == {
        one["role"] for one in rows
    }
    assert all(psutil.pid_exists(one["pid"]) for one in rows)
