"""Group commit: concurrent callers share one flush, and a flush starts when the previous one has ended.

Not a timer: when idle an item is flushed at once, under load the items that came during one flush make up the next
(DeWitt et al., 1984, "Implementation Techniques for Main Memory Database Systems").
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

import structlog

T = TypeVar("T")
log = structlog.get_logger(__name__)


def take(queue: SimpleQueue[T], most: int, first: T) -> list[T]:
    """`first` and whatever else is at hand, up to `most` items."""
    items = [first]
    try:
        while len(items) < most:
            items.append(queue.get_nowait())
    except Empty:
        pass
    return items


class GroupCommit(Generic[T]):
    """One thread that flushes whatever has gathered. `flush` answers its items itself and must not raise."""

    def __init__(self, flush: Callable[[list[T]], None], *, name: str, most: int) -> None:
        self._flush = flush
        self._most = most
        self._queue: SimpleQueue[T] = SimpleQueue()
        Thread(target=self._run, name=name, daemon=True).start()

    def put(self, item: T) -> None:
        """Hand over an item for the next flush."""
        self._queue.put(item)

    def _run(self) -> None:
        while True:
            items = take(self._queue, self._most, self._queue.get())
            try:
                self._flush(items)
            except Exception:
                log.exception("flush_failed", items=len(items))
