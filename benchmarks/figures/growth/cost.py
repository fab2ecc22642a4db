"""Processor time of a whole cluster for one operation: what it uses under a fixed load, less what it uses when idle."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.chaos import subject as subjects
from benchmarks.chaos.subject import Subject
from benchmarks.context import LIMITS, Context, ExpectedCounts, cpu_used
from benchmarks.document import Goal
from benchmarks.load import keys
from benchmarks.load.wire import Result

FLAT = Goal("value", "≤", 1.3)
CONNECTIONS, SECONDS, IDLE_SECONDS = 64, 4.0, 4.0
TIMES = "times (most by least)"


@contextlib.contextmanager
def cluster(*, shards: int = 2, replicas: int = 1, api: int = 2, shared_buffers: str = "") -> Iterator[Subject]:
    """A cluster for the time of the block."""
    directory = Path(tempfile.mkdtemp(prefix="tally-bench-"))
    found = subjects.start(
        directory, shards=shards, replicas=replicas, api=api, shared_buffers=shared_buffers, environment=LIMITS
    )
    try:
        yield found
    finally:
        subjects.put_away(found, keep=False)


class Meter:
    """Measures costs on one cluster."""

    def __init__(self, context: Context, subject: Subject) -> None:
        self._context, self.subject = context, subject
        with cpu_used(subject) as used:
            began = time.monotonic()
            time.sleep(IDLE_SECONDS * context.scale)
            seconds = time.monotonic() - began
        self.idle = sum(used.values()) / seconds  # cores

    def reads(self, requests: Sequence[bytes], rate: float) -> float:
        """Microseconds for one request."""
        with cpu_used(self.subject) as used:
            began = time.monotonic()
            result = self._load(requests, rate, 200)
            seconds = time.monotonic() - began
        return self._each(used, seconds, result.count)

    def writes(
        self, requests: Sequence[bytes], drawn: Sequence[Sequence[str]], expected: ExpectedCounts, rate: float
    ) -> float:
        """Microseconds for one increment, until the replicas have it. Request i has the keys `drawn[i]`."""
        before = expected.counts.total()
        with cpu_used(self.subject) as used:
            began = time.monotonic()
            expected.add(keys.counted(self._load(requests, rate, 202).answered, drawn))
            seconds = expected.settled() - began
        return self._each(used, seconds, expected.counts.total() - before)

    def _load(self, requests: Sequence[bytes], rate: float, status: int) -> Result:
        addresses = self._context.addresses(self.subject)
        return self._context.load(
            addresses, requests, connections=CONNECTIONS, seconds=SECONDS, rate=rate, status=status
        )

    def _each(self, used: dict[str, float], seconds: float, count: int) -> float:
        return 1e6 * (sum(used.values()) - self.idle * seconds) / max(1, count)
