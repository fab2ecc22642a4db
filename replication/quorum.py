"""Quorum arithmetic. Pure.

Invariant (I3): a WAL position counts as flushed only if at least `required` replicas have flushed it. So even after
`required` - 1 further losses, some replica still has every commit before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ANY = re.compile(r"ANY (\d+) \(")


def flushed(positions: Iterable[int], required: int) -> int | None:
    """The WAL position that at least `required` (1 or more) replicas have flushed; None if there are fewer replicas."""
    ordered = sorted(positions, reverse=True)
    return ordered[required - 1] if len(ordered) >= required else None


def confirming(names: str) -> int:
    """How many replicas a commit waits for under a value of `synchronous_standby_names`, as Patroni writes it."""
    if not names:
        return 0
    found = _ANY.match(names)
    return int(found[1]) if found else 1
