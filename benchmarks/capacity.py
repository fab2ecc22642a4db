"""What a rate needs, on paper: `python -m benchmarks.capacity` writes the table of docs/scaling.md.

The costs of an increment are those that `make bench` measured (results/bench.json); what it does not measure stands here as a
constant with its source. Everything is taken to be proportional to the rate, so keys grow with it: more increments of the
same keys would fold better. Pure, but for the reading and writing of files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import document, pages
from benchmarks.document import ROOT
from sharding import connection_budget
from sharding.connection_budget import Fleet

PAGE = ROOT / "docs/scaling.md"
ROLES = ("nginx", "api", "redis-journal", "redis-cache", "worker", "postgres")  # what grows with the rate
BUSY = 0.6  # share of a core that a process is to use, so that it has room for a peak, a failover and slower machines
COPIES = 2  # of each shard and of each journal
SHARD_ROWS = 75_000  # rows/s: half of what one connection upserts, 6.8 µs a row (docs/performance.md)
WAL_BYTES = 145  # of a row, where a window changes few rows of a page (docs/performance.md)
BACKLOG_SECONDS = 60  # that the journal holds while a shard changes its primary, or is overloaded
MIB = 1024**2
API_BYTES, WORKER_BYTES = 230 * MIB, 134 * MIB  # of a process in a flood of bodies (bench.json, overload)
DATABASE_BYTES, SMALLEST_JOURNAL_BYTES = 2048 * MIB, 1024 * MIB  # docker-compose.production.yml
POOL_SIZE, CONCURRENCY = 2, 4  # TALLY_DATABASE_POOL_SIZE, TALLY_WORKER_CONCURRENCY


@dataclass(frozen=True)
class Load:
    """A way to send increments. All is for one increment: busy core-seconds by role, bytes that clients send, bytes in the
    journal, rows that a shard writes."""

    name: str
    seconds: Mapping[str, float]
    sent: float
    journalled: float
    rows: float


@dataclass(frozen=True)
class Need:
    """For a load and its rate: totals, but `connections` to the primary of shard 0 and bytes/s of each disk."""

    load: Load
    rate: float
    cores: float
    api: int
    workers: int
    shards: int
    journals: int
    memory: float
    journal_disk: float
    wal_disk: float
    network_in: float
    network_within: float
    connections: int


def loads(found: Mapping[str, Any]) -> tuple[Load, ...]:
    """The three loads, as bench.json has their costs. Bytes of bodies and of what they fold to were measured on the
    benchmark's own bodies (tests/tools/test_capacity.py)."""
    values = {one["name"]: float(one["value"]) for one in found["figures"]}
    bulk = found["details"]["bulk"]["shares of a core, by role"]
    single = found["details"]["single"]["shares of a core, by role"]

    def cost(shares: Mapping[str, float], figure: str) -> dict[str, float]:
        return {role: shares[role] / values[figure] for role in ROLES}

    arrow, large = (f"Arrow bodies of {size:,}" for size in (10_000, 100_000))
    beside = "Bulk ingest to convergence, {}, beside Redis"
    return (
        Load(
            "one increment a request",
            cost(single, "One increment a request, beside Django + DRF, F() update"),
            sent=210,
            journalled=44,
            rows=values["Row writes per increment, one increment a request"],
        ),
        Load(arrow, cost(bulk[f"Tally, {arrow}"], beside.format(arrow)), sent=19.8, journalled=6.9, rows=0.045),
        Load(large, cost(bulk[f"Tally, {large}"], beside.format(large)), sent=16.6, journalled=4.1, rows=0.045),
    )


def need(load: Load, rate: float) -> Need:
    """What so many increments a second need."""
    cores = {role: seconds * rate / BUSY for role, seconds in load.seconds.items()}
    api, journals = max(2, math.ceil(cores["api"])), max(1, math.ceil(cores["redis-journal"]))
    shards = max(1, math.ceil(load.rows * rate / SHARD_ROWS))
    workers = shards * max(1, math.ceil(cores["worker"] / shards))
    journal = max(SMALLEST_JOURNAL_BYTES, 2 * load.journalled * rate / journals * BACKLOG_SECONDS)  # half is maxmemory
    servers = COPIES * (shards * DATABASE_BYTES + journals * journal)
    fleet = Fleet(
        api=api,
        workers=[workers // shards] * shards,
        spill_workers=1,
        pool_size=POOL_SIZE,
        worker_concurrency=CONCURRENCY,
        max_connections=0,
    )
    wal = load.rows * rate * WAL_BYTES
    return Need(
        load,
        rate,
        cores=sum(cores.values()),
        api=api,
        workers=workers,
        shards=shards,
        journals=journals,
        memory=api * API_BYTES + workers * WORKER_BYTES + servers,
        journal_disk=load.journalled * rate / journals,
        wal_disk=wal / shards,
        network_in=load.sent * rate,
        # from nginx to the API, to the journal, to its copy, to the worker, to the shard and to its copy
        network_within=rate * (load.sent + (1 + COPIES) * load.journalled) + COPIES * wal,
        connections=connection_budget.of(fleet, 0).most,
    )


def ceiling(load: Load) -> float:
    """Increments/s that one journal takes: as Tally is today, there is one."""
    return BUSY / load.seconds["redis-journal"]


HEAD = (
    *("load", "increments/s", "cores", "API processes", "workers", "shards", "journals", "memory, GiB"),
    *("journal, MB/s", "WAL of a shard, MB/s", "network in, within, Gbit/s", "connections to a primary"),
)
RATES = (10_000, 1_000_000, 100_000_000, 1_000_000_000)


def _row(one: Need) -> tuple[str, ...]:
    gigabits = " + ".join(pages.number(bytes * 8 / 1e9) for bytes in (one.network_in, one.network_within))
    return (
        *(one.load.name, f"{one.rate:,.0f}", pages.number(one.cores), f"{one.api:,}", f"{one.workers:,}"),
        *(f"{one.shards:,}", f"{one.journals:,}", pages.number(one.memory / 1024**3)),
        *(pages.number(one.journal_disk / 1e6), pages.number(one.wal_disk / 1e6), gigabits, f"{one.connections:,}"),
    )


def markdown(found: Mapping[str, Any]) -> str:
    """The table, and what one journal takes."""
    rows: Iterable[Need] = (need(load, rate) for load in loads(found) for rate in RATES)
    lines = [HEAD, ("---", *["---:"] * (len(HEAD) - 1)), *map(_row, rows)]
    most = "; ".join(f"{pages.number(ceiling(load))} as {load.name}" for load in loads(found))
    return (
        "".join(f"| {' | '.join(line)} |\n" for line in lines)
        + f"\nOne journal takes, in increments a second: {most}.\n"
    )


def write(found: Mapping[str, Any]) -> None:
    """Into docs/scaling.md."""
    pages.between(PAGE, "capacity", markdown(found))


if __name__ == "__main__":
    write(document.load())
