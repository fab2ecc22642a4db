"""Statistics of each component, for people: clients, work in a second, memory, data. One that does not answer says so.

The components are asked at once, each by its own means, and the answers are shared: see `runtime.looks`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
from django.conf import settings

from counters.operators import broker
from replication import copies
from runtime import redis
from runtime.looks import Late, Looks, Result
from runtime.resources import owned
from sharding import nodes
from sharding.nodes import Node

SECONDS = 4.0  # for a look: a server that hangs takes 2 s of it, and the work of a second is measured
FRESH_SECONDS = 1.0
_SAMPLE_SECONDS = 1.0
# pg_monitor may read all of these. A few rows of shared memory, and the sizes of a few hundred files.
SERVER = """
SELECT pg_is_in_recovery(),
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       current_setting('max_connections')::integer,
       pg_size_bytes(current_setting('shared_buffers')),
       (SELECT sum(pg_database_size(oid))::bigint FROM pg_database WHERE datallowconn),
       extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())::float8,
       (SELECT sum(blks_hit) / nullif(sum(blks_hit + blks_read), 0) FROM pg_stat_database)::float8"""
TRANSACTIONS = "SELECT sum(xact_commit + xact_rollback)::bigint FROM pg_stat_database"


@dataclass(frozen=True)
class Statistics:
    """One component's figures, None where it has no such figure. `trouble`: why there are none, "" if there are.

    `clients` of at most `most_clients` are connected. `rate`: commands of Redis, or transactions of PostgreSQL, in a
    second. `memory` and `data` (on the disk) are in bytes, `most_memory` 0 without a limit. `messages`: by queue.
    """

    name: str
    kind: str
    trouble: str = ""
    clients: int | None = None
    most_clients: int | None = None
    rate: float | None = None
    memory: int | None = None
    most_memory: int | None = None
    data: int | None = None
    up_seconds: float | None = None
    hit_share: float | None = None  # of look-ups that the cache, or PostgreSQL's buffers, answered
    messages: dict[str, int] = field(default_factory=dict)

    @property
    def up(self) -> str | None:
        """How long it has been up, in words."""
        return None if self.up_seconds is None else str(timedelta(seconds=int(self.up_seconds)))

    @property
    def hit_percent(self) -> float | None:
        """`hit_share` in percent."""
        return None if self.hit_share is None else 100 * self.hit_share


def look() -> Future[list[Statistics]]:
    """The statistics of all components. Never waits; the result comes within `SECONDS`."""
    return _looks().look()


@owned(close=Looks.close)
def _looks() -> Looks[list[Statistics]]:
    checks: dict[str, Callable[[], Statistics]] = {
        "journal": lambda: _redis("journal", redis.journal().info("everything")),
        "cache": lambda: _redis("cache", redis.cache_unguarded().info("everything")),
        "broker": _broker,
    }
    servers = [(shard, number, node) for shard in _shards() for number, node in enumerate(nodes.of(shard))]
    checks |= {f"{shard} {number}": partial(_server, shard, node) for shard, number, node in servers}
    return Looks(checks, _assembled, seconds=SECONDS, fresh_seconds=FRESH_SECONDS)


def _shards() -> range:
    return range(settings.TALLY.shard_count)


def _assembled(results: Mapping[str, Result], _began: float) -> list[Statistics]:
    return [result if isinstance(result, Statistics) else _missing(name, result) for name, result in results.items()]


def _missing(name: str, result: Result) -> Statistics:
    trouble = "no answer in time" if isinstance(result, Late) else f"no answer: {str(result).strip() or repr(result)}"
    shard, _, number = name.partition(" ")
    if number:
        return Statistics(copies.name_of(nodes.of(int(shard))[int(number)]), "PostgreSQL", trouble)
    return Statistics(name, "broker" if name == "broker" else "Redis", trouble)


def _broker() -> Statistics:
    """A Redis of its own, or another broker, of which only the messages are known. Raises as `broker.depths`."""
    info, messages = broker.info(), broker.depths()
    return replace(_redis("broker", info) if info else Statistics("broker", "broker"), messages=messages)


def _redis(name: str, info: Mapping[str, Any]) -> Statistics:
    hits, misses = info["keyspace_hits"], info["keyspace_misses"]
    return Statistics(
        name,
        f"{str(info.get('server_name', 'redis')).capitalize()} {info.get('valkey_version') or info['redis_version']}",
        clients=info["connected_clients"],
        most_clients=info.get("maxclients"),
        rate=float(info["instantaneous_ops_per_sec"]),
        memory=info["used_memory"],
        most_memory=info["maxmemory"],
        data=info.get("aof_current_size"),
        up_seconds=float(info["uptime_in_seconds"]),
        hit_share=hits / (hits + misses) if hits + misses else None,
    )


def _server(shard: int, node: Node) -> Statistics:
    """Raises `psycopg.Error`."""
    with nodes.connect(shard, node, timeout=2.0) as conn:
        ((is_replica, clients, most, buffers, size, up, hits),) = conn.execute(SERVER).fetchall()
        return Statistics(
            copies.name_of(node),
            f"PostgreSQL {conn.info.server_version // 10000}, {'replica' if is_replica else 'primary'}",
            clients=clients,
            most_clients=most,
            rate=_rate(conn),
            memory=buffers,
            data=size,
            up_seconds=up,
            hit_share=hits,
        )


def _rate(conn: psycopg.Connection[Any]) -> float:
    """Transactions in a second, as PostgreSQL counts them now and a moment later."""
    ((before,),), began = conn.execute(TRANSACTIONS).fetchall(), time.monotonic()
    time.sleep(_SAMPLE_SECONDS)
    ((after,),) = conn.execute(TRANSACTIONS).fetchall()
    return max(0.0, float(after - before) / (time.monotonic() - began))
