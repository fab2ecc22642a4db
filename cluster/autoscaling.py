"""How many processes there should be: workers of a shard by the age of the oldest entry of its journal, API processes by the
processor time that they use. Pure.

A load above `high` at every look for `up_seconds`: too few processes, one more. A load below `low` for `down_seconds`: maybe
too many, one less. Between the two nothing changes, and every change begins a new wait. If one less was too few, the next try
waits twice as long, up to `MOST_PATIENCE` times, so the number does not go up and down with a steady load. If it was enough,
half as long.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

MOST_PATIENCE = 16
USAGE_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Bounds of the number of processes, and the loads and seconds at which it changes. The usual loads are those of workers:
    seconds that a journal's oldest entry has waited."""

    least: int
    most: int
    high: float = 5.0
    low: float = 1.0
    up_seconds: float = 10.0
    down_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most or not 0 <= self.low < self.high:
            raise ValueError("least from 1 to most, and the lower load less than the higher")


@dataclass(frozen=True)
class Course:
    """The number of processes, and what the looks since `since` (monotonic) have had in common: 1 high, -1 low, 0 neither."""

    running: int
    common: int = 0
    since: float = 0.0
    patience: int = 1
    less_at: float = -math.inf  # when the last change was, if it was one less


def look(rule: Rule, course: Course, now: float, load: float | None) -> Course:
    """The course after a look at the load; None if nobody knows it."""
    if not rule.least <= course.running <= rule.most:
        return Course(min(max(course.running, rule.least), rule.most), since=now)
    common = 0 if load is None else (load > rule.high) - (load < rule.low)
    if common != course.common:
        return replace(course, common=common, since=now)
    waited, patience = now - course.since, rule.down_seconds * course.patience
    if common > 0 and waited >= rule.up_seconds and course.running < rule.most:
        was_hasty = now - course.less_at < patience
        longer = min(2 * course.patience, MOST_PATIENCE) if was_hasty else course.patience
        return replace(course, running=course.running + 1, since=now, patience=longer, less_at=-math.inf)
    if common < 0 and waited >= patience and course.running > rule.least:
        shorter = max(1, course.patience // 2) if course.less_at > -math.inf else course.patience
        return replace(course, running=course.running - 1, since=now, patience=shorter, less_at=now)
    return course


class Usage:
    """The processor time of some processes, over the last `USAGE_SECONDS`: a moment says little."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, Mapping[int, float]]] = deque()

    def look(self, now: float, used: Mapping[int, float]) -> float | None:
        """The part of a processor that a process has had, in the mean, from the seconds that each (by process id) has used
        since it began. None as long as no process is known for `USAGE_SECONDS`."""
        self._looks.append((now, used))
        while len(self._looks) > 1 and self._looks[1][0] <= now - USAGE_SECONDS:
            self._looks.popleft()
        then, before = self._looks[0]
        both = before.keys() & used.keys()
        if now - then < USAGE_SECONDS or not both:
            return None
        return sum(used[process] - before[process] for process in both) / len(both) / (now - then)
