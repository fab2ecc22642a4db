"""What tests of replication do with a shard and its servers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg

from counters.reading import reads
from replication import flush
from sharding import databases, topology
from sharding.databases import ShardUnavailable
from tests.support.cluster import Cluster, eventually, frozen

SHARD = 1
URL = f"/v1/shards/{SHARD}"
ASYNCHRONOUS = {"quorum": 0, "strict": False, "synchronous_commit": "on", "reason": "a test ends"}


def make_asynchronous(client: httpx.Client) -> None:
    """Take back what a test has asked of the shards' write quorums."""

    def is_done() -> bool:
        if any(one["quorum"] or one["strict"] for one in client.get("/v1/shards/quorum").json()["results"]):
            return client.put("/v1/shards/quorum", json=ASYNCHRONOUS).status_code == 200
        return True

    eventually(is_done, 90)


def replicas_of(client: httpx.Client, shard: int = SHARD) -> list[dict[str, Any]]:
    answer = client.get(f"/v1/shards/{shard}/replicas")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def one_of(client: httpx.Client, role: str, shard: int = SHARD) -> dict[str, Any]:
    found: dict[str, Any] = eventually(
        lambda: next((one for one in replicas_of(client, shard) if one["role"] == role), None)
    )
    return found


def key_on(shard: int, key: str) -> str:
    return next(one for n in range(99) if topology.current().shard_of(one := f"{key}:{n}") == shard)


def rows(shard: int, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    with databases.connection(databases.primary(shard)) as conn:
        return conn.execute(query, arguments).fetchall()


def shown(shard: int, name: str) -> str:
    setting: str = rows(shard, "SELECT current_setting(%s)", name)[0][0]
    return setting


@contextmanager
def replica_away(cluster: Cluster, client: httpx.Client, shard: int = SHARD) -> Iterator[str]:
    """Keep the shard's replica down: its Patroni is suspended, so nothing restarts it."""
    replica = one_of(client, "replica", shard)
    node = next(one for one in cluster.processes("postgres", shard) if one["port"] == replica["port"])
    with frozen(patroni_of(cluster, shard, node["name"])):
        os.kill(node["pid"], signal.SIGKILL)
        eventually(lambda: rows(shard, "SELECT count(*) FROM pg_stat_replication") == [(0,)])
        yield replica["node"]
    eventually(lambda: rows(shard, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == [(1,)], 60)


@contextmanager
def directly(node: dict[str, Any]) -> Iterator[psycopg.Connection[Any]]:
    address = {"host": node["host"], "port": str(node["port"]), "target_session_attrs": "any"}
    with databases.connect(databases.primary(SHARD), timeout=5, autocommit=True, **address) as conn:
        yield conn


def system_start(node: dict[str, Any]) -> float:
    """When this server's PostgreSQL was started; 0 while it is down."""
    try:
        with directly(node) as conn:
            started: float = conn.execute("SELECT extract(epoch FROM pg_postmaster_start_time())::float8").fetchall()[
                0
            ][0]
            return started
    except psycopg.OperationalError:
        return 0.0


@contextmanager
def delayed(client: httpx.Client, delay: str) -> Iterator[dict[str, Any]]:
    """The shard's replica applies each commit so much later."""
    replica = one_of(client, "replica")
    answer = client.put(f"{URL}/replicas/{replica['node']}/delay", json={"delay": delay, "reason": "to show lag"})
    assert answer.status_code == 200, answer.text
    try:
        yield answer.json()
    finally:
        ended = client.put(f"{URL}/replicas/{replica['node']}/delay", json={"delay": "0ms"})
        assert (ended.status_code, ended.json()["apply_delay_ms"]) == (200, 0), ended.text


def patroni_of(cluster: Cluster, shard: int, node: str) -> dict[str, Any]:
    """The Patroni of a node, by the name of the node or of its postgres process."""
    return next(one for one in cluster.processes("patroni", shard) if one["name"][-1] == node[-1])


def primary_of(cluster: Cluster, shard: int) -> dict[str, Any]:
    """The postgres process that is primary now."""

    def ask() -> dict[str, Any] | None:
        with databases.connect(databases.primary(shard), autocommit=True) as conn:
            port = conn.info.port
        return next((one for one in cluster.processes("postgres", shard) if one["port"] == port), None)

    found: dict[str, Any] = eventually(patiently(ask), 60)
    return found


def patiently(function: Callable[[], Any]) -> Callable[[], Any]:
    """Wrap the function so that it returns None while the database is down."""

    def call() -> Any:
        try:
            return function()
        except psycopg.OperationalError:
            return None

    return call


def is_read(shard: int) -> bool:
    """Whether a shard's replica answers reads."""
    try:
        return reads.ask(shard, lambda conn: conn.execute("SELECT 1"))[1] == "replica"
    except ShardUnavailable:
        return False


def is_streaming(shard: int) -> bool:
    """Whether a shard's replica follows its primary."""
    try:
        with databases.connect(databases.primary(shard), autocommit=True) as conn:
            return flush.flushed(conn, 1) is not None
    except psycopg.OperationalError:
        return False
