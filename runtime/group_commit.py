"""Group commit: concurrent callers share one flush, and a flush starts when the previous one has ended.

Not a timer: when idle an item is flushed at once, under load the items that came during one flush make up the next
(DeWitt et al., 1984, "Implementation Techniques for Main Memory Database Systems").
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, Generic, TypeVar

import structlog

T = TypeVar("T")
R = TypeVar("R")
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


class Promise(Generic[R]):
    """A result that one thread or one coroutine waits for: a future without cancelling and states, at a tenth of its cost."""

    __slots__ = ("_callback", "_error", "_lock", "_result", "done")

    def __init__(self) -> None:
        self.done = False
        self._error: BaseException | None = None
        self._callback: Callable[[], object] | None = None
        self._lock = Lock()
        self._lock.acquire()

    @classmethod
    def kept(cls, result: R) -> Promise[R]:
        """One whose result is there already."""
        promise = cls()
        promise.resolve(result)
        return promise

    def resolve(self, result: R) -> None:
        """Hand over the result; once."""
        self._result = result
        self._tell()

    def fail(self, error: BaseException) -> None:
        """Raise an error where the result is waited for; once, and instead of `resolve`."""
        self._error = error
        self._tell()

    def _tell(self) -> None:
        self.done = True
        self._lock.release()
        if self._callback is not None:
            self._callback()

    def __await__(self) -> Generator[Any, None, R]:
        """The result; for one coroutine."""
        loop = asyncio.get_running_loop()
        arrived = loop.create_future()
        self._callback = partial(_tell, loop, arrived)
        if self.done:  # perhaps just now, and told already: `_arrive` takes both
            self._callback()
        yield from arrived
        return self.wait()

    def wait(self) -> R:
        """The result; for one waiting thread."""
        self._lock.acquire()
        if self._error is not None:
            raise self._error
        return self._result


def _tell(loop: asyncio.AbstractEventLoop, arrived: asyncio.Future[None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the process ends, and nobody waits any more
        loop.call_soon_threadsafe(_arrive, arrived)


def _arrive(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)


class GroupCommit(Generic[T]):
    """One thread that flushes whatever has gathered. `flush` answers its items itself and must not raise."""

    def __init__(self, flush: Callable[[list[T]], None], *, name: str, most: int) -> None:
        self._flush = flush
        self._most = most
        self._queue: SimpleQueue[T | Event] = SimpleQueue()
        self._drains: list[Event] = []
        _all.append(self)
        Thread(target=self._run, name=name, daemon=True).start()

    def put(self, item: T) -> None:
        """Hand over an item for the next flush."""
        self._queue.put(item)

    @property
    def waiting(self) -> int:
        """Items that no flush has taken yet, about."""
        return self._queue.qsize()

    def drain(self, seconds: float) -> bool:
        """Wait until all that was put before is flushed; whether that was so in time."""
        drained = Event()
        self._drains.append(drained)  # before it is in the queue: `_run` looks here first
        self._queue.put(drained)
        return drained.wait(seconds)

    def _run(self) -> None:
        while True:
            taken = take(self._queue, self._most, self._queue.get())
            drains = [item for item in taken if isinstance(item, Event)] if self._drains else []
            items: list[Any] = [item for item in taken if not isinstance(item, Event)] if drains else taken
            try:
                if items:
                    self._flush(items)
            except Exception:
                log.exception("flush_failed", items=len(items))
            for drained in drains:
                self._drains.remove(drained)
                drained.set()


_all: list[GroupCommit[Any]] = []


def drain(seconds: float) -> bool:
    """Before a process ends: wait until all that was put into any group commit is flushed. Each is waited for after those made earlier,
    as intake is made before dispatch and feeds it."""
    deadline = monotonic() + seconds
    return all(one.drain(max(0.0, deadline - monotonic())) for one in list(_all))
