"""Throughput, backlog, copies and breakers over time, sampled twice a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
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


class Copies(NamedTuple):
    """How many copies the shard with the fewest has: its primary, if it answers, and the replicas that stream."""

    at: float
    least: int


def longest_lack(samples: Sequence[Copies], full: int) -> float:
    """The longest time for which some shard had fewer than `full` copies, in seconds."""
    longest, since = 0.0, None
    for sample in samples:
        if sample.least >= full:
            since = None
        else:
            since = sample.at if since is None else since
            longest = max(longest, sample.at - since)
    return longest


class CopiesSampler:
    """Counts copies until told to stop. It has a thread of its own, as it waits for servers that are down."""

    def __init__(self, subject: Subject) -> None:
        self.samples: list[Copies] = []
        self._subject = subject

    def run(self, stop: threading.Event) -> None:
        shards = range(len(self._subject.shards))
        while not stop.wait(PERIOD_SECONDS):
            self.samples.append(Copies(time.monotonic(), min(map(self._subject.copies, shards))))


class Sampler:
    """Samples until told to stop. `openings`: the breakers of shards that were opened, and when (Unix seconds)."""

    def __init__(self, subject: Subject, writes: Callable[[], int], reads: Callable[[], int]) -> None:
        self.samples: list[Sample] = []
        self.openings: set[tuple[str, int]] = set()
        self._subject, self._writes, self._reads = subject, writes, reads

    def run(self, stop: threading.Event) -> None:
        at, writes, reads = time.monotonic(), self._writes(), self._reads()
        while not stop.wait(PERIOD_SECONDS):
            depth = self._depth()
            with suppress(RedisError):
                self.openings |= self._subject.openings()
            now, written, read = time.monotonic(), self._writes(), self._reads()
            seconds = now - at
            self.samples.append(Sample(now, (written - writes) / seconds, (read - reads) / seconds, depth))
            at, writes, reads = now, written, read

    def _depth(self) -> int | None:
        try:
            return sum(self._subject.depths().values())
        except RedisError:
            return None
