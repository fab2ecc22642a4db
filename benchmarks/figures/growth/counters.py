"""Cost of an increment and of a read from 10³ to 10⁷ counters. The thousand that are used are drawn from all that there
are."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.chaos.subject import Subject
from benchmarks.context import Context, ExpectedCounts, increments
from benchmarks.document import Part, figure
from benchmarks.figures.growth.cost import FLAT, TIMES, Meter, cluster
from benchmarks.load import wire

COUNTERS = (10**3, 10**4, 10**5, 10**6, 10**7)
USED = 1_000
WRITES_A_SECOND, READS_A_SECOND, PRIMARY_READS_A_SECOND = 1_500.0, 2_500.0, 1_000.0
FILL = """
INSERT INTO counter (key, slot, value, version)
SELECT key, slot, 0, 1 FROM
    (SELECT key, (crc32(convert_to(key, 'UTF8')) & 1023)::smallint AS slot FROM
        (SELECT %(prefix)s || n AS key FROM generate_series(%(first)s::int, %(last)s::int) AS n) AS named) AS placed
JOIN shard_state ON owners[slot + 1] = shard"""
VACUUM = "VACUUM (ANALYZE) counter"  # what autovacuum would do in the middle of the measurement
WRITTEN = "SELECT pg_current_wal_lsn()::text"
REPLAYED = "SELECT coalesce(pg_last_wal_replay_lsn() >= %s::pg_lsn, true)"  # NULL on a primary


def fill(subject: Subject, prefix: str, first: int, last: int) -> None:
    """Make the counters `prefix + number` where they belong, value 0."""

    def one(shard: int) -> None:
        with subject.database(shard) as conn:
            conn.execute(FILL, {"prefix": prefix, "first": first, "last": last})
            conn.execute(VACUUM)
            written = conn.execute(WRITTEN).fetchall()[0]
        with subject.database(shard, subject.last_copy(shard)) as replica:
            while not replica.execute(REPLAYED, written).fetchall()[0][0]:
                time.sleep(0.1)

    with ThreadPoolExecutor(len(subject.shards)) as pool:
        list(pool.map(one, range(len(subject.shards))))


def run(context: Context, part: Part) -> None:
    """Fill up, measure, fill up more, on a cluster of its own."""
    points = []
    sizes = [size for size in COUNTERS if size <= COUNTERS[-1] * context.scale] or [COUNTERS[0]]
    with cluster() as subject:
        there, prefix = 0, f"g{context.run}:"
        expected = ExpectedCounts(context, prefix, part, subject)
        for size in sizes:
            context.tell(f"{size:,} counters: making them")
            fill(subject, prefix, there, size - 1)
            there = size
            context.tell(f"{size:,} counters: cost")
            points.append({"counters": size, **_costs(context, subject, expected, size)})
        context.tell("every count")
        expected.compare()
    part.curves["counters"] = points
    for name, title in (("increment_us", "increment"), ("read_us", "read"), ("primary_read_us", "read of the primary")):
        costs = [point[name] for point in points]
        text = f"Growth: cost of one {title}, {sizes[0]:,} to {sizes[-1]:,} counters"
        part.figures.append(
            figure(text, TIMES, [max(costs) / min(costs)], goal=FLAT, note=f"{costs[0]:.0f} to {costs[-1]:.0f} µs")
        )


def _costs(context: Context, subject: Subject, expected: ExpectedCounts, size: int) -> dict[str, float]:
    names = [f"{expected.prefix}{n}" for n in context.rng.sample(range(size), min(size, USED))]
    meter = Meter(context, subject)
    writes = increments(context, names, subject)
    key = {"Authorization": f"Api-Key {subject.key}"}
    reads = [wire.http("GET", f"/v1/counters/{name}", headers=key) for name in names]
    primary = [wire.http("GET", f"/v1/counters/{name}?consistency=primary", headers=key) for name in names]
    meter.reads(primary, PRIMARY_READS_A_SECOND)  # warm
    return {
        "increment_us": meter.writes(writes, [[name] for name in names], expected, WRITES_A_SECOND),
        "read_us": meter.reads(reads, READS_A_SECOND),
        "primary_read_us": meter.reads(primary, PRIMARY_READS_A_SECOND),
        "idle_cores": meter.idle,
    }
