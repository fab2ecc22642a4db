"""Throughput and backlog over time, sampled twice a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from redis.exceptions import RedisError

from benchmarks.chaos.subject import Subject

PERIOD_SECONDS = 0.5


class Sample(NamedTuple):
    """Rates since the sample before, per second; `depth` is entries in all journals, None while the journal does not
    answer."""

    at: float
    writes: float
    reads: float
    depth: int | None


class Sampler:
    """Samples until told to stop."""

    def __init__(self, subject: Subject, writes: Callable[[], int], reads: Callable[[], int]) -> None:
        self.samples: list[Sample] = []
        self._subject, self._writes, self._reads = subject, writes, reads

    def run(self, stop: threading.Event) -> None:
        at, writes, reads = time.monotonic(), self._writes(), self._reads()
        while not stop.wait(PERIOD_SECONDS):
            depth = self._depth()
            now, written, read = time.monotonic(), self._writes(), self._reads()
            seconds = now - at
            self.samples.append(Sample(now, (written - writes) / seconds, (read - reads) / seconds, depth))
            at, writes, reads = now, written, read

    def _depth(self) -> int | None:
        try:
            return sum(self._subject.depths().values())
        except RedisError:
            return None
