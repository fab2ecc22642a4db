"""The fold: a run of increments is one delta for each key. Pure.

Invariant: folding the folds of parts gives the fold of the whole, whatever the split and order, with `{}` as identity:
increments are a commutative monoid. So folding in the request and again in the worker gives the same count
(tests/unit/test_fold.py). The worker's fold is `counters.apply.plan`: it keeps each key's version beside its sum, and
is the only place that meets sets.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

MIN_VALUE = -(2**63)
MAX_VALUE = 2**63 - 1


class Increment(Protocol):
    """Something to add to a counter."""

    key: str
    delta: int


def in_range(value: int) -> bool:
    """Whether a counter can hold this value."""
    return MIN_VALUE <= value <= MAX_VALUE


def fold(increments: Iterable[Increment]) -> dict[str, int]:
    """Sum of the deltas for each key. A sum may be out of range."""
    sums: dict[str, int] = {}
    get = sums.get
    for one in increments:  # a generator of pairs to a general loop costs half as much again
        key = one.key
        sums[key] = get(key, 0) + one.delta
    return sums
