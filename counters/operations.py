"""The fold: a run of increments is one delta for each key. Pure.

Invariant: `fold(b, fold(a)) == fold(a + b)`, whatever the split and order, with `{}` as identity: increments are a commutative
monoid. So folding in the request and again in the worker gives the same count (tests/test_fold.py). A set makes the pair
`(base, delta)` of its key a known value; that part of the fold is `counters.apply.plan`, the only place that meets sets.
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


def fold(increments: Iterable[tuple[str, int]], into: dict[str, int] | None = None) -> dict[str, int]:
    """Sum of the deltas for each key, added to `into` (changed in place) if it is given. A sum may be out of range."""
    sums = {} if into is None else into
    get = sums.get
    for key, delta in increments:
        sums[key] = get(key, 0) + delta
    return sums


def fold_increments(increments: Iterable[Increment]) -> dict[str, int]:
    """`fold` of objects as a request has them."""
    sums: dict[str, int] = {}
    get = sums.get
    for one in increments:
        key = one.key
        sums[key] = get(key, 0) + one.delta
    return sums
