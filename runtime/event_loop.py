"""Work that goes on for ever on an event loop; and an event loop in its own thread, for a process without a server to run
one: a command, a test."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from threading import Thread
from typing import Any, TypeVar

import structlog

T = TypeVar("T")
log = structlog.get_logger(__name__)


def keep(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Start work that goes on until it is cancelled. If it ends by an exception, which is a bug, the log says so at once."""
    task = loop.create_task(work)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("work_ended", work=task.get_coro().__qualname__, exc_info=error)  # type: ignore[union-attr]


class LoopThread:
    """An event loop that runs in a thread from `open` to `close`."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = Thread(target=self.loop.run_forever, name=name, daemon=True)

    def open(self) -> None:
        """Start the loop."""
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop, wait, and return its result. Call it from another thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def close(self) -> None:
        """Stop the loop, once its threads have ended. Tasks that still run on it are abandoned."""
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def __enter__(self) -> LoopThread:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
