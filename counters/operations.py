"""The fold: sums a run of increments into one delta per key. Pure.

Invariant: folding the folds of parts yields the fold of the whole, whatever the split and order, with `{}` as identity:
increments are a commutative monoid. So folding in the request and again in the worker yields the same count
(tests/unit/test_fold.py). The worker's fold is in `counters.apply.plan`: it also keeps each key's version, and only it
handles sets.
"""

from __future__ import annotations

from collections.abc import Sequence

MIN_VALUE = -(2**63)
MAX_VALUE = 2**63 - 1


def in_range(value: int) -> bool:
    """Whether a counter can hold this value."""
    return MIN_VALUE <= value <= MAX_VALUE


def fold(keys: Sequence[str], deltas: Sequence[int]) -> dict[str, int]:
    """Sum of the deltas for each key; `deltas[i]` is added to `keys[i]`. A sum may be out of range."""
    sums: dict[str, int] = {}
    get = sums.get
    for key, delta in zip(keys, deltas, strict=True):
        sums[key] = get(key, 0) + delta
    return sums
