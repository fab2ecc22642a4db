"""What a process has that takes writes: its connections on an event loop, its intake, its look-ups in the cache.

The server opens one on its loop (`counters.api.application`); a command opens one beside itself (`in_background`).
Threads reach it by `current()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from counters.intake import dispatch
from counters.intake.intake import Intake
from counters.intake.outcomes import Listener
from counters.intake.writes import Accepted, Write
from counters.reading.lookups import Lookups
from runtime import redis
from runtime.event_loop import LoopThread

_DRAIN_SECONDS = 10.0


class NotOpen(RuntimeError):
    """This process takes no writes: it has opened no service."""


class Service:
    """Made and opened on an event loop, which it lives on; closed there as well."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._journal, self._cache = redis.open_journal(), redis.open_cache()
        self._listener = Listener(self._cache)
        self.intake = Intake(self._journal, self._listener)
        self.lookups = Lookups(self._cache)

    def open(self) -> None:
        """From here on `current` returns this one."""
        global _current  # noqa: PLW0603 - one a process
        self._listener.open()
        _current = self

    async def close(self) -> None:
        """Answer what was submitted, offer the broker what waits for it, and close the connections."""
        global _current  # noqa: PLW0603
        _current = None
        await self.intake.drain()
        await asyncio.to_thread(dispatch.drain, _DRAIN_SECONDS)  # what is not dispatched by then, the relay dispatches
        await self._listener.close()
        await self._journal.aclose()
        await self._cache.aclose()

    def submit(self, write: Write) -> Accepted:
        """Put a write into the journal, from a thread that waits until it is on the disk there.

        Raises `JournalUnavailable` (it may or may not have been taken), `idempotency.Mismatch`, `ShardUnavailable`.
        """
        if write.claim and (earlier := write.claim.find()):
            return Accepted(earlier, repeated=True)
        return asyncio.run_coroutine_threadsafe(self._submitted(write), self.loop).result()

    async def _submitted(self, write: Write) -> Accepted:
        return await self.intake.submit(write)


_current: Service | None = None


def current() -> Service:
    """The service of this process. Raises `NotOpen`."""
    if _current is None:
        raise NotOpen("this process has opened no counters.service.Service")
    return _current


@contextmanager
def in_background() -> Iterator[Service]:
    """A service on an event loop in a thread of its own, while the block runs."""
    thread = LoopThread("service")
    try:
        service = thread.run(_opened())
        try:
            yield service
        finally:
            thread.run(service.close())
    finally:
        thread.close()


async def _opened() -> Service:
    service = Service()
    service.open()
    return service
