"""The Prometheus of `cluster up --monitoring`: it scrapes every process, follows a scaling, and comes back."""

from __future__ import annotations

import json
import shutil
import time
from typing import Any

import httpx
import psutil
import pytest

from cluster.layout import MONITORING_USER
from tests.support.cluster import Cluster, eventually

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not on PATH (Debian: prometheus)"
)


def ask(followed: Cluster, path: str, **params: str) -> Any:
    """The data of an answer of its API."""
    (row,) = followed.processes("prometheus")
    password = json.loads((followed.dir / "secrets.json").read_text())["prometheus"]
    address = f"http://127.0.0.1:{row['port']}/api/v1/{path}"
    answer = httpx.get(address, params=params, auth=(MONITORING_USER, password), timeout=10)
    return answer.raise_for_status().json()["data"]


def scraped(followed: Cluster) -> dict[str, str]:
    """How each target is, by its process."""
    found = ask(followed, "targets", state="active")["activeTargets"]
    return {one["labels"]["process"]: one["health"] for one in found}


def test_it_scrapes_every_process_that_has_metrics_and_follows_a_scaling(followed: Cluster) -> None:
    def names() -> set[str]:
        return {row["name"] for row in followed.status()["processes"] if row["metrics_port"]}

    eventually(lambda: scraped(followed) == dict.fromkeys(names(), "up"), 60)
    before = names()
    try:
        followed.manage("cluster", "scale", "spill-worker=0", "--dir", str(followed.dir))
        assert names() == before - {"spill-worker-1"}
        eventually(lambda: scraped(followed).keys() == names(), 10)
    finally:
        followed.manage("cluster", "scale", "spill-worker=1", "--dir", str(followed.dir))
    eventually(lambda: scraped(followed).keys() == before, 10)


def test_it_comes_back_with_what_it_knew(followed: Cluster) -> None:
    (row,) = followed.processes("prometheus")
    eventually(lambda: "up" in scraped(followed).values(), 60)
    question = {"query": "sum by (process) (up)", "time": str(time.time())}
    known = ask(followed, "query", **question)["result"]
    assert known
    psutil.Process(row["pid"]).kill()
    eventually(lambda: followed.processes("prometheus")[0]["pid"] not in (None, row["pid"]), 20)
    eventually(lambda: followed.all_running("prometheus"), 20)
    assert ask(followed, "query", **question)["result"] == known
