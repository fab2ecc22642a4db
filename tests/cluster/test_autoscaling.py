"""`cluster autoscale` with real workers: one more while a worker stands still, and one less afterwards."""

from __future__ import annotations

import signal
import subprocess

import httpx

from tests.support.cluster import Cluster, eventually, frozen, value_of
from tests.support.commands import MANAGE, ROOT, clean
from tests.support.journal import lane_of

SHARD = 1
QUICK = ("--late", "0.5", "--early", "0.4", "--up", "0.5", "--down", "0.5", "--worker", "1-2")


def test_a_shard_whose_journal_grows_old_gets_another_worker_for_as_long(
    cluster: Cluster, client: httpx.Client, key: str
) -> None:
    key = next(one for n in range(99) if lane_of(one := f"{key}:{n}").shard == SHARD)
    command = [*MANAGE, "cluster", "autoscale", "--dir", str(cluster.dir), *QUICK]
    workers = cluster.processes("worker", SHARD)
    with subprocess.Popen(command, cwd=ROOT, env=clean(), stdout=subprocess.PIPE, text=True) as scaling:
        try:
            with frozen(*workers):
                client.post(f"/v1/counters/{key}/increments", json={"delta": 3}).raise_for_status()
                eventually(lambda: value_of(client, key) == 3)  # by a worker that was not there
            names = [row["name"] for row in workers]
            eventually(lambda: [row["name"] for row in cluster.processes("worker", SHARD)] == names)
        finally:
            scaling.send_signal(signal.SIGINT)
        said = scaling.communicate(timeout=30)[0]
    assert f"worker-{SHARD}=2: the journal's oldest entry waits for" in said
