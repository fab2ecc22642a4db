"""Row writes per increment where keys are hot: what folding saves PostgreSQL."""

from __future__ import annotations

import time

from benchmarks.chaos.subject import Subject
from benchmarks.context import Context
from benchmarks.document import Goal, Part, figure
from benchmarks.figures.bulk import BODY, Bulk
from benchmarks.figures.single import Single
from benchmarks.load import keys

TITLE = "Row writes per increment"
KEYS = 1_000
SECONDS = 8.0
STATISTICS_SECONDS = 1.5  # a backend tells the statistics at most once a second
WRITTEN = (
    "SELECT coalesce(sum(n_tup_ins + n_tup_upd), 0)::bigint FROM pg_stat_user_tables WHERE relname LIKE 'counter\\_%'"
)


def row_writes(subject: Subject) -> int:
    """Rows of counters that all primaries have inserted or updated so far."""
    time.sleep(STATISTICS_SECONDS)
    total = 0
    for shard in range(len(subject.shards)):
        with subject.database(shard) as conn:
            total += conn.execute(WRITTEN).fetchall()[0][0]
    return total


def run(context: Context) -> Part:
    """Bulk bodies on a thousand keys at full rate; beside it one increment a request."""
    part = Part()
    bulk = Bulk(context, part, counters=KEYS, prefix="h")
    single = Single(context, part, prefix="i")
    bulks, singles = [], []
    for turn in range(context.repeats):
        context.tell(f"{turn + 1} of {context.repeats}")
        before = row_writes(context.subject)
        counted = bulk.expected.counts.total()
        bulk.measure(keys.MSGPACK, SECONDS)
        between = row_writes(context.subject)
        bulks.append((between - before) / (bulk.expected.counts.total() - counted))
        counted = single.expected.counts.total()
        single.tally()
        singles.append((row_writes(context.subject) - between) / (single.expected.counts.total() - counted))
    bulk.expected.compare()
    single.expected.compare()
    one = "F() update: one each"
    part.figures = [
        figure(
            f"{TITLE}, bodies of {BODY:,} on {KEYS:,} hot keys",
            "row writes",
            bulks,
            peer=one,
            peer_samples=[1.0],
            goal=Goal("value", "≤", 0.01),
        ),
        figure(f"{TITLE}, one increment a request", "row writes", singles, peer=one, peer_samples=[1.0]),
    ]
    return part
