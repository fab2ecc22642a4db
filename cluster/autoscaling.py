"""How many workers a shard should have, by the age of the oldest entry of its journal. Pure.

A journal that is older than `late` at every look for `up_seconds` has too few workers: one more. One that is younger than
`early` for `down_seconds` may have too many: one less. Between the two nothing changes, and every change begins a new wait.
If one less was too few, the next try waits twice as long, up to `MOST_PATIENCE` times, so the number does not go up and down
with a steady load. If it was enough, half as long.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

MOST_PATIENCE = 16


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Bounds of the number of workers, and when it changes; all in seconds."""

    least: int
    most: int
    late: float = 5.0
    early: float = 1.0
    up_seconds: float = 10.0
    down_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most or not 0 <= self.early < self.late:
            raise ValueError("least from 1 to most, and early less than late")


@dataclass(frozen=True)
class Course:
    """A shard's workers, and what the looks since `since` (monotonic) have had in common: 1 late, -1 early, 0 neither."""

    workers: int
    common: int = 0
    since: float = 0.0
    patience: int = 1
    less_at: float = -math.inf  # when the last change was, if it was one less


def look(rule: Rule, course: Course, now: float, age: float | None) -> Course:
    """The course after a look at the age of the journal; None if nobody knows it."""
    if not rule.least <= course.workers <= rule.most:
        return Course(min(max(course.workers, rule.least), rule.most), since=now)
    common = 0 if age is None else (age > rule.late) - (age < rule.early)
    if common != course.common:
        return replace(course, common=common, since=now)
    waited, patience = now - course.since, rule.down_seconds * course.patience
    if common > 0 and waited >= rule.up_seconds and course.workers < rule.most:
        was_hasty = now - course.less_at < patience
        longer = min(2 * course.patience, MOST_PATIENCE) if was_hasty else course.patience
        return replace(course, workers=course.workers + 1, since=now, patience=longer, less_at=-math.inf)
    if common < 0 and waited >= patience and course.workers > rule.least:
        shorter = max(1, course.patience // 2) if course.less_at > -math.inf else course.patience
        return replace(course, workers=course.workers - 1, since=now, patience=shorter, less_at=now)
    return course
