"""Which counters are read most: counts of a sample of the reads, older reads counting less. Pure.

Up to `SAMPLES` keys a second are counted each; of more, one in `stride`, which counts for them all. Counts fall by half
in `HALF_LIFE_SECONDS`. Instead of lowering the old ones, new ones weigh more (Cormode et al., 2009, "Forward Decay").
Twice as many keys are counted as are wanted; where there are more, the less popular half is forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import nlargest
from math import log
from random import Random

SAMPLES = 1000  # in a second
HALF_LIFE_SECONDS = 300.0
_LARGE = 1e100


class Popularity:
    """Counts reads for the `most` keys that are read most; none if that is 0."""

    def __init__(self, most: int, rng: Random) -> None:
        self._most, self._rng = most, rng
        self._counts: dict[str, float] = {}
        self._weight = 1.0  # of a read now
        self._stride = 1
        self.samples = 0  # taken so far
        self._begun = 0  # of these, before the last `tick`, or before the stride was doubled
        self._skip = 0  # keys until the next sample

    def count(self, keys: Sequence[str]) -> None:
        """Keys that are read now."""
        self._skip -= len(keys)
        while self._skip < 0:
            self._sample(keys[self._skip])

    def tick(self, seconds: float) -> None:
        """So much time has passed since the last tick: about a second."""
        if self.samples - self._begun < SAMPLES / 2:
            self._stride = max(1, self._stride // 2)
        self._begun = self.samples
        self._weight *= 2 ** (seconds / HALF_LIFE_SECONDS)
        if self._weight > _LARGE:
            self._counts = {key: count / self._weight for key, count in self._counts.items()}
            self._weight = 1.0

    def hottest(self) -> list[str]:
        """The keys that are read most, the first of them most."""
        return sorted(self._counts, key=self._counts.__getitem__, reverse=True)[: self._most]

    def rates(self, most: int) -> dict[str, float]:
        """Reads a second of the keys that are read most, so many at most. The average over the last minutes: a key that
        is read evenly at this rate has this count."""
        share = log(2) / HALF_LIFE_SECONDS / self._weight
        top = nlargest(most, self._counts.items(), key=lambda item: item[1])
        return {key: count * share for key, count in top}

    def _sample(self, key: str) -> None:
        self._skip += self._rng.randrange(1, 2 * self._stride)  # the stride, on average
        self._counts[key] = self._counts.get(key, 0.0) + self._weight * self._stride
        if len(self._counts) > 2 * self._most:
            self._forget()
        self.samples += 1
        if self.samples - self._begun == SAMPLES:
            self._stride, self._begun = 2 * self._stride, self.samples

    def _forget(self) -> None:
        """Keep the keys that are read most; of those at the bound, the newest."""
        if not self._most:
            self._counts.clear()
            return
        bound = sorted(self._counts.values())[-self._most]
        at_bound = [key for key, count in self._counts.items() if count == bound]
        self._counts = {key: count for key, count in self._counts.items() if count > bound}
        self._counts |= dict.fromkeys(at_bound[len(self._counts) - self._most :], bound)
