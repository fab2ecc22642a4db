"""The report: what a shift did. It is the result of the lane's task, which Flower shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from prometheus_client import Counter

from counters.apply.transaction import Committed
from sharding.lanes import FRESH, Queue

APPLIED = Counter("tally_batches_applied_total", "Batches whose transaction was committed", ["shard"])
DUPLICATES = Counter("tally_batches_duplicate_total", "Batches that the ledger had already", ["shard"])
REJECTED = Counter("tally_operations_rejected_total", "Operations that could not be applied", ["shard", "reason"])
ROWS = Counter("tally_rows_written_total", "Counter rows written", ["shard"])


@dataclass
class Report:
    """What a shift of a lane did.

    `operations` are the folded operations of new batches: one for each key of a write. `duplicates` are batches that
    the ledger already had.
    """

    shard: int
    lane: int
    queue: Queue = FRESH
    windows: int = 0
    batches: int = 0
    operations: int = 0
    rows: int = 0
    duplicates: int = 0

    def add(self, done: Committed, batches: int) -> None:
        """Count a committed window of `batches` batches, here and in the metrics."""
        duplicates, rows = batches - len(done.fresh), len(done.plan.added) + len(done.plan.put)
        self.windows += 1
        self.batches += len(done.fresh)
        self.operations += sum(placed.batch.operations for placed in done.fresh)
        self.rows += rows
        self.duplicates += duplicates
        APPLIED.labels(self.shard).inc(len(done.fresh))
        DUPLICATES.labels(self.shard).inc(duplicates)
        ROWS.labels(self.shard).inc(rows)
        for outcome in done.plan.outcomes:
            if outcome.status == "rejected":
                REJECTED.labels(self.shard, outcome.reason).inc()

    def as_dict(self) -> dict[str, int | str]:
        return asdict(self)
