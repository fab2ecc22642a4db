"""The minute after `FLUSHALL`: what of a steady load of reads reaches the shards, and what it costs their primaries, on a
cluster that warms its cache and on one that does not."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise

import httpx
import psutil
from redis import Redis

from benchmarks.chaos import subject as subjects
from benchmarks.chaos.subject import Subject, family
from benchmarks.context import Context, ExpectedCounts
from benchmarks.document import Goal, Part, figure
from benchmarks.load import keys, wire
from benchmarks.load.wire import Result

TITLE = "After FLUSHALL"
WITH, WITHOUT = "warmed", "not warmed"
KEYS, DRAWN, RATE, CONNECTIONS = 10_000, 200_000, 2_000, 64
LEARN_SECONDS, LEAD_SECONDS, SECONDS, FIRST_SECONDS = 20.0, 3.0, 60.0, 5.0
PERIOD_SECONDS = 1.0
# What the API processes count: reads, those that missed the cache, counters read to warm it, queries that shards answered
# and keys that these asked for.
COUNTED = {
    "tally_requests_total": "reads",
    "tally_cache_missed_total": "misses",
    "tally_cache_warmed_total": "warmed",
    "tally_shard_queries_total": "queries",
    "tally_shard_queried_keys_total": "keys",
}
SERVERS = ("primaries", "replicas")  # their processor seconds
Sample = tuple[float, dict[str, float]]  # seconds since FLUSHALL, and totals


@dataclass
class Minute:
    """The load on one cluster."""

    context: Context
    part: Part
    samples: list[dict[str, float]] = field(default_factory=list)  # what there was in each second, second by second
    latencies: list[float] = field(default_factory=list)

    def prepare(self) -> None:
        """Counters, and reads by which the processes learn what is read most."""
        self.expected = ExpectedCounts(self.context, f"f{self.context.run}:", self.part, self.context.subject)
        names = [f"{self.expected.prefix}{n}" for n in range(KEYS)]
        connection = self.context.subject.wire()
        answer = connection.ask("POST", "/v1/increments", keys.body(keys.JSON, names), {"Content-Type": keys.JSON})
        connection.close()
        if answer.status != 202:
            raise RuntimeError(f"answered {answer.status}")
        self.expected.add(dict.fromkeys(names, 1))
        self.expected.settled()
        drawn = keys.zipf(names, DRAWN, self.context.rng)
        requests = [wire.http("GET", f"/v1/counters/{key}", headers=self.context.authorization) for key in drawn]
        self._requests = requests[DRAWN // 2 :]
        self._load(requests[: DRAWN // 2], LEARN_SECONDS)

    def run(self) -> None:
        """Empty the cache under the load, and watch."""
        subject, seconds = self.context.subject, SECONDS * self.context.scale
        with ThreadPoolExecutor(1) as beside:
            loading = beside.submit(self._load, self._requests, SECONDS + LEAD_SECONDS / self.context.scale)
            time.sleep(LEAD_SECONDS)
            _empty(subject)
            began = time.monotonic()
            totals = [(0.0, _totals(subject))]
            while totals[-1][0] < seconds:
                time.sleep(max(0.0, began + len(totals) * PERIOD_SECONDS - time.monotonic()))
                totals.append((time.monotonic() - began, _totals(subject)))
            result = loading.result()
        self.latencies = list(memoryview(result.latencies).cast("f"))[round((began - result.started) * RATE) :]
        self.samples = [_grown(*pair) for pair in pairwise(totals)]
        self.expected.compare()

    def total(self, name: str, seconds: float) -> float:
        """How much there was of something in the first seconds."""
        first = [sample for sample in self.samples if sample["second"] <= seconds + PERIOD_SECONDS / 2]
        return sum(sample[name] * sample["seconds"] for sample in first)

    def p99_ms(self, seconds: float) -> float:
        """Of the reads in the first seconds: answers are in the order in which they came, and come at a steady rate."""
        first = sorted(self.latencies[: max(1, int(seconds * RATE))])
        return 1000 * first[int(0.99 * (len(first) - 1))]

    def _load(self, requests: Sequence[bytes], seconds: float) -> Result:
        return self.context.load(
            self.context.addresses(), requests, connections=CONNECTIONS, seconds=seconds, rate=RATE
        )


def run(context: Context) -> Part:
    """The same load on both clusters, one after the other."""
    part = Part()
    context.tell("a cluster that does not warm its cache")
    directory = context.directory / "not-warmed"
    directory.mkdir()
    other = subjects.start(directory, environment={"TALLY_WARM_KEYS": "0"})
    try:
        minutes = {
            WITH: Minute(context, part),
            WITHOUT: Minute(replace(context, subject=other), part),
        }
        for name, minute in minutes.items():
            context.tell(f"{name}: what is read most")
            minute.prepare()
            context.tell(f"{name}: the minute after FLUSHALL")
            minute.run()
    finally:
        subjects.put_away(other, keep=False)
    first, whole = FIRST_SECONDS * context.scale, SECONDS * context.scale
    warmed, cold = minutes[WITH], minutes[WITHOUT]
    part.figures = [
        figure(
            f"{TITLE}: reads that missed, in the first {FIRST_SECONDS:g} s at {RATE:,} reads/s",
            "reads",
            [warmed.total("misses", first)],
            peer=WITHOUT,
            peer_samples=[cold.total("misses", first)],
            goal=Goal("ratio", "≤", 0.5),
        ),
        figure(
            f"{TITLE}: queries that shards answered, in the first {FIRST_SECONDS:g} s",
            "queries",
            [warmed.total("queries", first)],
            peer=WITHOUT,
            peer_samples=[cold.total("queries", first)],
        ),
        figure(
            f"{TITLE}: p99 of reads, in the first {FIRST_SECONDS:g} s",
            "ms",
            [warmed.p99_ms(first)],
            peer=WITHOUT,
            peer_samples=[cold.p99_ms(first)],
        ),
        figure(
            f"{TITLE}: processor time of the primaries, in the minute",
            "s",
            [warmed.total("primaries", whole)],
            peer=WITHOUT,
            peer_samples=[cold.total("primaries", whole)],
        ),
    ]
    part.curves = {name: minute.samples for name, minute in minutes.items()}
    return part


def _empty(subject: Subject) -> None:
    with Redis.from_url(subject.env["TALLY_CACHE_URL"], socket_timeout=5) as cache:
        cache.flushall()


def _grown(before: Sample, after: Sample) -> dict[str, float]:
    """What there was in each second between two samples."""
    (began, first), (ended, second) = before, after
    names = [*COUNTED.values(), *SERVERS]
    rates = {name: max(0.0, second[name] - first[name]) / (ended - began) for name in names}
    return {"second": ended, "seconds": ended - began, **rates}


def _totals(subject: Subject) -> dict[str, float]:
    """What the API processes have counted so far, and processor seconds of the servers of the shards."""
    found: defaultdict[str, float] = defaultdict(float)
    headers = {"Authorization": f"Bearer {subject.env['TALLY_METRICS_TOKEN']}"}
    for row in subject.rows("api"):
        answer = httpx.get(f"http://127.0.0.1:{row['metrics_port']}/metrics", headers=headers, timeout=5)
        for line in answer.text.splitlines():
            name, _, value = line.rpartition(" ")
            if column := COUNTED.get(name.partition("{")[0]):
                found[column] += float(value)
    for shard in range(len(subject.shards)):
        for role, row in zip(SERVERS, (subject.primary(shard), subject.replica(shard)), strict=True):
            for process in family(row):
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    found[role] += times.user + times.system
    return found
