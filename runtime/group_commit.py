"""Group commit: concurrent callers share one flush, and a flush starts when the previous one has ended.

There is no timer: when idle, an item is flushed at once; under load, the items that arrive during one flush form the
next (DeWitt et al., 1984, "Implementation Techniques for Main Memory Database Systems").
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

T = TypeVar("T")
log = structlog.get_logger(__name__)


class GroupCommit(Generic[T]):
    """Flushes the waiting items, at most `most` at once. For one event loop.

    `flush` must answer its items itself and must not raise.
    """

    def __init__(self, flush: Callable[[list[T]], Awaitable[None]], *, most: int) -> None:
        self._flush = flush
        self._most = most
        self._items: list[T] = []
        self._running: asyncio.Task[None] | None = None

    def put(self, item: T) -> None:
        """Add an item to the next flush. Call it on the event loop."""
        self._items.append(item)
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run())

    @property
    def waiting(self) -> int:
        """Items that no flush has taken yet."""
        return len(self._items)

    async def drain(self) -> None:
        """Wait until all items are flushed."""
        while self._running is not None:
            await asyncio.shield(self._running)

    async def _run(self) -> None:
        try:
            while self._items:
                taken, self._items = self._items[: self._most], self._items[self._most :]
                try:
                    await self._flush(taken)
                except Exception:
                    log.exception("flush_failed", items=len(taken))
        finally:
            self._running = None
