"""A page of rows from all shards, for people: a shard that is away leaves its rows out instead of spoiling the page.

Rows have a *place* (a key, or a tuple) by which each shard gives them in order, and where the next page begins. A
filter that no index serves is applied to as many rows of each shard as one page may look at; the next page goes on
behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import merge
from typing import Any, Generic, TypeVar

from sharding.databases import ShardUnavailable

PAGE = 100
LOOK = 5000  # rows of a shard that one page looks at for a filter

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """`following` is the place that the next page begins behind, None if this is the last. `away`: shards whose rows
    are missing."""

    rows: list[Row]
    following: Any
    away: list[int]

    @property
    def trouble(self) -> str:
        """A sentence on what is missing, if anything."""
        names = ", ".join(map(str, self.away))
        return f"No server of shard {names} answers now: its rows are missing here." if names else ""


def page(
    shards: Iterable[int],
    look: Callable[[int, int], list[Row]],
    *,
    place: Callable[[Row], Any],
    wanted: Callable[[Row], bool] | None = None,
    reverse: bool = False,
) -> Page[Row]:
    """Merge what `look(shard, limit)` gives in the order of `place` (falling if `reverse`), and keep what is
    `wanted`."""
    limit = LOOK if wanted else PAGE + 1
    found: list[list[Row]] = []
    ends: list[Any] = []  # how far shards were looked at that may have more
    away: list[int] = []
    for shard in shards:
        try:
            rows = look(shard, limit)
        except ShardUnavailable:  # logged and counted by the breaker
            away.append(shard)
            continue
        if len(rows) == limit:
            ends.append(place(rows[-1]))
        found.append([row for row in rows if wanted is None or wanted(row)])
    end = (max if reverse else min)(ends, default=None)  # beyond it, some shard's rows are not known
    known = [
        row
        for row in merge(*found, key=place, reverse=reverse)
        if end is None or (place(row) >= end if reverse else place(row) <= end)
    ]  # fmt: skip
    if len(known) > PAGE:
        return Page(known[:PAGE], place(known[PAGE - 1]), away)
    return Page(known, end, away)
