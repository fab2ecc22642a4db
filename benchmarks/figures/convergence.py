"""From an answer 202 to the value on the replica: when idle, and under shares of the maximum bulk load."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import psycopg

from benchmarks.chaos.wire import NoAnswer, Wire
from benchmarks.context import Context, ExpectedCounts
from benchmarks.document import Goal, Part, figure
from benchmarks.figures.bulk import BODY, Bulk
from benchmarks.load import keys

TITLE = "Convergence, 202 to visible on the replica"
VALUE = "SELECT value FROM counter WHERE key = %s"
SHARES = (0.0, 0.25, 0.5, 0.75)
MOST_SECONDS, SECONDS = 8.0, 12.0
LOOK_SECONDS, PAUSE_SECONDS = 0.001, 0.03
PATIENCE_SECONDS = 60.0


@dataclass
class Probe:
    """Increments a key of each shard in turn, and looks at the replica until it is there."""

    context: Context
    expected: ExpectedCounts
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """Until told to stop; what went wrong is in `failures`."""
        try:
            self._run(stop)
        except (psycopg.Error, NoAnswer, TimeoutError, RuntimeError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")

    def _run(self, stop: threading.Event) -> None:
        subject, wire = self.context.subject, self.context.subject.wire()
        with contextlib.ExitStack() as stack:
            stack.callback(wire.close)
            replicas = [
                stack.enter_context(subject.database(shard, subject.last_copy(shard)))
                for shard in range(len(subject.shards))
            ]
            probed = [(replica, self._key_of(wire, shard)) for shard, replica in enumerate(replicas)]
            while not stop.wait(PAUSE_SECONDS):
                for replica, key in probed:
                    self._until(replica, key, self._increment(wire, key))

    def _increment(self, wire: Wire, key: str) -> float:
        """When it was answered."""
        headers = {"Content-Type": "application/json"}
        answer = wire.ask("POST", f"/v1/counters/{key}/increments", b'{"delta": 1}', headers, timeout=PATIENCE_SECONDS)
        answered = time.monotonic()
        if answer.status != 202:
            raise RuntimeError(f"answered {answer.status}")
        self.expected.add({key: 1})
        return answered

    def _key_of(self, wire: Wire, shard: int) -> str:
        """A key of a shard that nobody else writes."""
        names = (f"{self.expected.prefix}{number}" for number in count())
        return next(name for name in names if wire.ask("GET", f"/v1/counters/{name}").json["shard"] == shard)

    def _until(self, replica: psycopg.Connection[Any], key: str, answered: float) -> None:
        wanted = self.expected.counts[key]
        while True:
            row = replica.execute(VALUE, (key,)).fetchone()
            now = time.monotonic()
            if row is not None and row[0] >= wanted:
                self.seconds.append(now - answered)
                return
            if now - answered > PATIENCE_SECONDS:
                raise TimeoutError(f"{key} is not on the replica of its shard after {PATIENCE_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)


def run(context: Context) -> Part:
    """The most that bulk takes, then the probe beside shares of it."""
    part = Part()
    bulk = Bulk(context, part, prefix="v")
    context.tell("the maximum")
    most = bulk.measure(keys.MSGPACK, MOST_SECONDS)
    points = []
    for share in SHARES:
        context.tell(f"{share:.0%} of {most:,.0f} increments/s")
        points.append({"share": share, **_under(context, part, bulk, share * most)})
    bulk.expected.compare()
    part.curves["latency"] = points
    by_share = {point["share"]: point for point in points}
    part.figures = [
        figure(
            f"{TITLE}, p99 at half of the maximum load", "ms", [by_share[0.5]["p99_ms"]], goal=Goal("value", "≤", 1000)
        ),
        figure(f"{TITLE}, p99 when idle", "ms", [by_share[0.0]["p99_ms"]], goal=Goal("value", "≤", 100)),
    ]
    part.details["maximum, increments/s"] = most
    return part


def _under(context: Context, part: Part, bulk: Bulk, rate: float) -> dict[str, float]:
    """Quantiles while so many increments a second come in."""
    probe = Probe(context, ExpectedCounts(context, f"p{context.run}-{rate:.0f}:", part, context.subject))
    stop = threading.Event()
    thread = threading.Thread(target=probe.run, args=(stop,), daemon=True)
    thread.start()
    try:
        reached = (
            bulk.measure(keys.MSGPACK, SECONDS, rate / BODY) if rate else stop.wait(SECONDS * context.scale) or 0.0
        )
    finally:
        stop.set()
        thread.join(PATIENCE_SECONDS)
    if probe.failures or not probe.seconds:
        raise RuntimeError(f"the probe failed: {probe.failures or 'no result'}")
    probe.expected.compare()
    seconds = sorted(probe.seconds)
    quantiles = {
        f"p{100 * q:g}_ms": 1000 * seconds[min(len(seconds) - 1, int(q * len(seconds)))] for q in (0.5, 0.9, 0.99)
    }
    return {"rate": reached, "probes": len(seconds), **quantiles}
