"""The budget of connections: what the processes open under load stays within it, and what does not fit is refused."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest
from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, OperationalError
from django.db.utils import ConnectionHandler

from cluster import layout, prepare
from cluster.layout import Directory
from counter_project.databases import django_databases
from sharding import connection_budget, databases
from sharding.connection_budget import Budget
from tests.support.cluster import Cluster, eventually
from tests.support.load import load
from tests.support.shards import rows

CLIENTS = 40  # more than two processes have connections
OPEN = "SELECT application_name, count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1"
ROOM = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
       - current_setting('reserved_connections')::int"""


def budget(cluster: Cluster, shard: int) -> Budget:
    """What the command would add up for the cluster as it is."""
    stored = layout.load(Directory(cluster.dir))
    assert stored
    return connection_budget.of(prepare.fleet(stored, cluster.env), shard)


def kind_of(name: str) -> str:
    """Who opened a connection: `application_name` is the process's name."""
    for kind in ("api", "spill-worker", "worker", "Patroni"):
        if name.startswith(kind):
            return kind
    return "command"


def opened(conn: psycopg.Connection[tuple[str, int]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, number in conn.execute(OPEN).fetchall():
        found[kind_of(name)] += number
    return found


@contextmanager
def readers(cluster: Cluster, key: str) -> Iterator[None]:
    """Many clients that read what is in no cache, of primaries and of replicas, as fast as they can."""
    stopping = threading.Event()
    ports = [api["port"] for api in cluster.processes("api")]

    def run(number: int) -> None:
        url = f"http://127.0.0.1:{ports[number % len(ports)]}"
        with httpx.Client(base_url=url, timeout=60) as client:
            turn = 0
            while not stopping.is_set():
                turn += 1
                asked = {"consistency": "primary"} if number % 3 == 0 else {}
                client.get(f"/v1/counters/{key}:{number}:{turn}", params=asked)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


@pytest.mark.limit("TALLY_DATABASE_POOL_SIZE")
def test_a_process_opens_so_many_connections_to_a_database_at_most(cluster: Cluster) -> None:
    wanted = django_databases(settings.TALLY.model_copy(update={"database_pool_size": 2}))[databases.primary(0)]
    wanted["OPTIONS"]["pool"]["timeout"] = 0.2
    handler = ConnectionHandler({DEFAULT_DB_ALIAS: {}, "of a test": wanted})
    one, two, three = made = [handler.create_connection("of a test") for _ in range(3)]
    try:
        one.ensure_connection()
        two.ensure_connection()
        with pytest.raises(OperationalError):
            three.ensure_connection()
        two.close()
        three.ensure_connection()
    finally:
        for each in made:
            each.close()
        one.close_pool()  # type: ignore[attr-defined]


def test_what_the_processes_open_stays_within_the_budget(cluster: Cluster, key: str) -> None:
    most: dict[int, Counter[str]] = {0: Counter(), 1: Counter()}
    total = {0: 0, 1: 0}
    with (
        databases.connect(databases.primary(0), timeout=5, autocommit=True) as zero,
        databases.connect(databases.primary(1), timeout=5, autocommit=True) as one,
        load(cluster, key),
        readers(cluster, key),
    ):
        until, at_last = time.monotonic() + 4, time.monotonic() + 30
        # On a slow machine it takes a while until so much comes at once that a process opens several.
        while (at := time.monotonic()) < until or (at < at_last and min(found["api"] for found in most.values()) <= 4):
            for shard, conn in enumerate((zero, one)):
                now = opened(conn)
                most[shard] |= now
                total[shard] = max(total[shard], now.total())
            time.sleep(0.05)
    for shard in (0, 1):
        allowed = budget(cluster, shard)
        found = most[shard]
        assert 4 < found["api"] <= allowed.api
        assert 0 < found["worker"] <= allowed.workers
        assert found["spill-worker"] <= allowed.spill_workers
        assert found["Patroni"] <= connection_budget.PATRONI
        assert total[shard] <= allowed.most <= allowed.limit
        assert rows(shard, ROOM) == [(allowed.limit + connection_budget.PATRONI,)]


def test_more_processes_than_there_are_connections_for_are_refused(cluster: Cluster) -> None:
    before = cluster.status()["processes"]
    refused = cluster.manage("cluster", "scale", "api=9", "--dir", str(cluster.dir), check=False)
    assert refused.returncode == 1
    assert "9 API processes and 1 worker could open 354 connections to the primary of shard 0" in refused.stderr
    assert "4 API processes at most, or TALLY_DATABASE_POOL_SIZE=4, or raise max_connections" in refused.stderr
    assert (cluster.dir / "layout.json").read_text().count('"api": 2') == 1
    eventually(lambda: [row["pid"] for row in cluster.status()["processes"]] == [row["pid"] for row in before])


def test_the_budget_is_shown(cluster: Cluster) -> None:
    worst = max((budget(cluster, shard) for shard in (0, 1)), key=lambda one: one.most)
    assert cluster.status()["connections"] == {"shard": worst.shard, "most": worst.most, "limit": worst.limit}
    table = cluster.manage("cluster", "status", "--dir", str(cluster.dir)).stdout
    assert table.splitlines()[-1] == (
        f"connections at most: {worst.most} of {worst.limit}, to the primary of shard {worst.shard}"
    )
