"""A page of rows from all shards, for people. If a shard is down, the page is shown without its rows.

Each row has a *place* (a key or a tuple). Each shard returns its rows in the order of their places, and the next page
begins after a place. A filter that no index serves checks a limited number of rows of each shard for a page; the next
page continues after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import merge
from typing import Any, Generic, TypeVar

from sharding.databases import ShardUnavailable

PAGE = 100
LOOK = 5000  # rows of each shard that a filter checks for one page

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """`following`: the place after which the next page begins, None on the last page. `away`: shards that are down,
    whose rows are missing."""

    rows: list[Row]
    following: Any
    away: list[int]

    @property
    def trouble(self) -> str:
        """A sentence on the missing rows, "" if there are none."""
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
    """Merge the rows that `look(shard, limit)` returns, in the order of `place` (descending if `reverse`), and keep
    those that are `wanted`."""
    limit = LOOK if wanted else PAGE + 1
    found: list[list[Row]] = []
    ends: list[Any] = []  # the last place seen of each shard that may have more rows
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
    end = (max if reverse else min)(ends, default=None)  # beyond it, rows of some shard are unknown
    known = [
        row
        for row in merge(*found, key=place, reverse=reverse)
        if end is None or (place(row) >= end if reverse else place(row) <= end)
    ]  # fmt: skip
    if len(known) > PAGE:
        return Page(known[:PAGE], place(known[PAGE - 1]), away)
    return Page(known, end, away)
