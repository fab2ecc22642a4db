"""Increments that are too old move to the stale queues while workers and a primary are killed: each is counted once."""

from __future__ import annotations

import os
import signal
from functools import partial

import httpx
import pytest

from tests.support.cluster import Cluster, eventually, frozen
from tests.support.load import assert_exact, load
from tests.support.shards import primary_of, rows
from tests.support.workers import impatient_worker


@pytest.mark.usefixtures("whole")
def test_exact_while_increments_grow_stale_and_workers_and_a_primary_die(
    cluster: Cluster, client: httpx.Client, key: str
) -> None:
    deferred = "SELECT count(*) FROM ledger WHERE deferred IS NOT NULL"
    before = [rows(shard, deferred)[0][0] for shard in (0, 1)]

    def grown(shard: int, by: int) -> bool:
        return bool(rows(shard, deferred)[0][0] >= before[shard] + by)

    def both_grown(by: int) -> bool:
        return grown(0, by) and grown(1, by)

    with load(cluster, key) as running:
        with frozen(*cluster.processes("worker")), impatient_worker(cluster) as again:
            for turn in range(3):
                eventually(partial(both_grown, 1 + turn), 60)
                again()
            old = primary_of(cluster, 1)
            os.kill(old["pid"], signal.SIGKILL)
            eventually(lambda: primary_of(cluster, 1)["name"] != old["name"], 60)
            before[1] = rows(1, deferred)[0][0]
            eventually(lambda: grown(1, 1), 60)
        running.goes_on()
    assert_exact(client, running)
