"""Quorum arithmetic. Pure.

Invariant (I3): a WAL position counts as flushed only if at least `required` replicas have flushed it, so that with up to `required` - 1
further losses some replica still has every commit before it.
"""

from __future__ import annotations

from collections.abc import Iterable


def flushed(positions: Iterable[int], required: int) -> int | None:
    """The WAL position that at least `required` (1 or more) replicas have flushed; None if there are fewer replicas."""
    ordered = sorted(positions, reverse=True)
    return ordered[required - 1] if len(ordered) >= required else None
