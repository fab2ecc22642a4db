"""Throughput and backlog over time, sampled twice a second, and the journal entries that passed by (for the flood's duplicates)."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple
from uuid import UUID

from redis.exceptions import RedisError

PERIOD_SECONDS = 0.5


class Sample(NamedTuple):
    """Rates since the sample before, per second; `depth` is entries in all journals, None while the journal does not answer."""

    at: float
    writes: float
    reads: float
    depth: int | None


class Sampler:
    """Samples until told to stop."""

    def __init__(self, journal: Any, shards: int, writes: Callable[[], int], reads: Callable[[], int]) -> None:
        self.samples: list[Sample] = []
        self.passed: deque[tuple[int, str, int]] = deque(maxlen=3000)  # shard, batch id, position
        self._journal, self._shards, self._writes, self._reads = journal, shards, writes, reads

    def run(self, stop: threading.Event) -> None:
        at, writes, reads = time.monotonic(), self._writes(), self._reads()
        while not stop.wait(PERIOD_SECONDS):
            depth = self._depth()
            now, written, read = time.monotonic(), self._writes(), self._reads()
            seconds = now - at
            self.samples.append(Sample(now, (written - writes) / seconds, (read - reads) / seconds, depth))
            at, writes, reads = now, written, read

    def _depth(self) -> int | None:
        depth = 0
        try:
            for shard in range(self._shards):
                key = f"journal:{shard}:positions"
                depth += self._journal.zcard(key)
                for id, position in self._journal.zrange(key, 0, 50, withscores=True):
                    self.passed.append((shard, UUID(bytes=id).hex, int(position)))
        except RedisError:
            return None
        return depth

    def some_passed(self, rng: random.Random, count: int) -> list[tuple[int, str, int]]:
        """Batches that were in a journal lately."""
        return rng.sample(list(self.passed), min(count, len(self.passed)))
