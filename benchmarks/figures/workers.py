"""One to four workers a shard: how fast bulk is, and what it costs. Beside that, whether Celery's tasks report all that
was accepted."""

from __future__ import annotations

from functools import partial

from benchmarks.context import SHARES, WARM_SECONDS, Context, Shares
from benchmarks.document import Goal, Part, figure, median_and_spread
from benchmarks.figures.bulk import BODY, COUNTERS, SECONDS, Bulk
from benchmarks.load import keys
from benchmarks.scaling import scale
from benchmarks.tasks import Reports, reports

TITLE = "Workers"
WORKERS = (1, 2, 3, 4)  # of each shard
COMPARED = (1, 2, 4)  # in processor time
FEW, MORE = 1, 3  # in rate
COST = Goal("value", "≤", 1.15)
RATE = Goal("ratio", "≥", 0.9)
MILLION = 1e6


class Measure:
    """Bulk with some number of workers. `costs`: processor seconds of the whole cluster for a million increments."""

    def __init__(self, context: Context, part: Part, reported: Reports) -> None:
        self._context, self._reported = context, reported
        self.bulk = Bulk(context, part, prefix="k")
        self.shares = {count: Shares() for count in WORKERS}
        self.costs: dict[int, list[float]] = {count: [] for count in WORKERS}

    def rate(self, count: int) -> float:
        """Increments a second until the replicas have them all."""
        scale(self._context.subject, "worker", count)
        self.bulk.measure(keys.MSGPACK, WARM_SECONDS)
        rate = self.bulk.measure(keys.MSGPACK, SECONDS)
        used = self.bulk.shares.samples[-1]
        self.shares[count].samples.append(used)
        self.costs[count].append(MILLION / rate * sum(cores for role, cores in used.items() if role != "load"))
        self._reported.wait(self.bulk.operations)
        return rate


def run(context: Context) -> Part:
    """On the cluster of the run, which gets its workers back. The numbers take turns, so that each meets the same
    noise."""
    part, subject = Part(), context.subject
    before = subject.count("worker")
    with reports(subject) as reported:
        measure = Measure(context, part, reported)
        try:
            samples = context.interleaved({_named(count): partial(measure.rate, count) for count in WORKERS})
        finally:
            context.tell(f"back to {_named(before)}")
            scale(subject, "worker", before)
        measure.bulk.expected.compare()
        reported.compare(part, measure.bulk.operations)
    rates = {count: samples[_named(count)] for count in WORKERS}
    costs = {count: median_and_spread(measure.costs[count])[0] for count in WORKERS}
    part.curves["workers"] = [
        {"workers": count, "rate": median_and_spread(rates[count])[0], "cpu_seconds": costs[count]} for count in WORKERS
    ]
    compared = [costs[count] for count in COMPARED]
    part.figures = [
        figure(
            f"{TITLE}: bulk with {MORE} of each shard",
            "increments/s",
            rates[MORE],
            peer=_named(FEW),
            peer_samples=rates[FEW],
            goal=RATE,
            note=f"bodies of {BODY:,} as {keys.MSGPACK}, Zipf over {COUNTERS:,} counters",
        ),
        figure(
            f"{TITLE}: processor time of an increment, {', '.join(map(str, COMPARED))} of each shard",
            "times (most by least)",
            [max(compared) / min(compared)],
            goal=COST,
            note=f"{min(compared):.2f} to {max(compared):.2f} s for a million increments, all processes of the cluster",
        ),
    ]
    part.details = {
        "processor seconds for a million increments": {_named(count): measure.costs[count] for count in WORKERS},
        "increments/s": samples,
        SHARES: {_named(count): shares.medians() for count, shares in measure.shares.items()},
    }
    return part


def _named(count: int) -> str:
    return "one worker a shard" if count == 1 else f"{count} workers a shard"
