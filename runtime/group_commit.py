"""Group commit: concurrent callers share one flush, and a flush starts when the previous one has ended.

There is no timer: when idle, an item is flushed at once; under load, the items that arrive during one flush form the
next (DeWitt et al., 1984, "Implementation Techniques for Main Memory Database Systems").
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from runtime import request_id

T = TypeVar("T")
log = structlog.get_logger(__name__)


class GroupCommit(Generic[T]):
    """Flushes the waiting items, at most `most` at once. For one event loop.

    Light items go first, so they do not wait for all heavy ones before them. Of these, as many go with a flush as weigh
    `most_weight` together, one at least: where there are heavy items, `most` is two or more. `flush` must answer its items
    itself and must not raise.
    """

    def __init__(self, flush: Callable[[list[T]], Awaitable[None]], *, most: int, most_weight: int = 0) -> None:
        self._flush = flush
        self._most, self._most_weight = most, most_weight
        self._items: list[T] = []
        self._heavy: deque[tuple[T, int]] = deque()
        self._running: asyncio.Task[None] | None = None

    def put(self, item: T, weight: int = 0) -> None:
        """Add an item to the next flush, or to a later one if it is heavy (has a weight). Call it on the event loop."""
        if weight:
            self._heavy.append((item, weight))
        else:
            self._items.append(item)
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run(), context=request_id.nobody())

    @property
    def waiting(self) -> int:
        """Items that no flush has taken yet."""
        return len(self._items) + len(self._heavy)

    async def drain(self) -> None:
        """Wait until all items are flushed."""
        while self._running is not None:
            await asyncio.shield(self._running)

    async def _run(self) -> None:
        try:
            while self._items or self._heavy:
                taken = self._taken()
                try:
                    await self._flush(taken)
                except Exception:
                    log.exception("flush_failed", items=len(taken))
        finally:
            self._running = None

    def _taken(self) -> list[T]:
        """The items of the next flush."""
        light = self._most - 1 if self._heavy else self._most
        taken, self._items = self._items[:light], self._items[light:]
        weight = 0
        while (
            self._heavy and len(taken) < self._most and (not weight or weight + self._heavy[0][1] <= self._most_weight)
        ):
            item, more = self._heavy.popleft()
            taken.append(item)
            weight += more
        return taken
