"""`cluster autoscale` with real processes: a worker more while one stands still, and one less afterwards; an API process more
while they are busy."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import httpx

from tests.support.cluster import Cluster, eventually, frozen, value_of
from tests.support.commands import MANAGE, ROOT, clean
from tests.support.journal import lane_of

SHARD = 1


@contextmanager
def autoscaling(cluster: Cluster, *options: str) -> Iterator[list[str]]:
    """`cluster autoscale` for as long. The list gets the lines that it says."""
    said: list[str] = []
    command = [*MANAGE, "cluster", "autoscale", "--dir", str(cluster.dir), "--up", "0.5", *options]
    with subprocess.Popen(command, cwd=ROOT, env=clean(), stdout=subprocess.PIPE, text=True) as scaling:
        assert scaling.stdout
        listening = Thread(target=said.extend, args=(scaling.stdout,))
        listening.start()
        try:
            yield said
        finally:
            scaling.send_signal(signal.SIGINT)
            scaling.wait(30)
            listening.join(30)


def test_a_shard_whose_journal_grows_old_gets_another_worker_for_as_long(
    cluster: Cluster, client: httpx.Client, key: str
) -> None:
    key = next(one for n in range(99) if lane_of(one := f"{key}:{n}").shard == SHARD)
    workers, api = cluster.processes("worker", SHARD), len(cluster.processes("api"))
    quick = ("--late", "0.5", "--early", "0.4", "--down", "0.5", "--worker", "1-2", "--api", str(api))
    with autoscaling(cluster, *quick) as said:
        with frozen(*workers):
            client.post(f"/v1/counters/{key}/increments", json={"delta": 3}).raise_for_status()
            eventually(lambda: value_of(client, key) == 3)  # by a worker that was not there
        names = [row["name"] for row in workers]
        eventually(lambda: [row["name"] for row in cluster.processes("worker", SHARD)] == names)
    assert any(f"worker-{SHARD}=2: the journal's oldest entry waits for" in line for line in said)


def test_api_processes_that_are_busy_get_another_one(cluster: Cluster, client: httpx.Client, key: str) -> None:
    api, workers = len(cluster.processes("api")), len(cluster.processes("worker", SHARD))
    bounds = ("--api", f"{api}-{api + 1}", "--worker", str(workers), "--late", "999")
    try:
        with autoscaling(cluster, *bounds, "--busy", "0.02", "--idle", "0") as said:
            answered: set[str] = set()

            def another_one_serves() -> bool:
                answered.update(client.get(f"/v1/counters/{key}").headers["Tally-Node"] for _ in range(100))
                return len(answered) == api + 1

            eventually(another_one_serves, seconds=60)
            eventually(lambda: any(f"api={api + 1}: each uses" in line for line in said))  # once its order is done
    finally:
        cluster.manage("cluster", "scale", f"api={api}", "--dir", str(cluster.dir))
