"""The service of a process that takes writes: connections on an event loop, intake, and cache look-ups.

The server opens one on its loop (`counters.api.application`); a command opens one in a background thread
(`in_background`). Threads reach it by `current()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from counters.intake.intake import Intake
from counters.intake.outcomes import Listener
from counters.intake.writes import Accepted, Write
from counters.reading.lookups import Lookups
from runtime import redis
from runtime.event_loop import LoopThread
from runtime.resources import owned


class NotOpen(RuntimeError):
    """This process takes no writes: it has no open service."""


class Service:
    """Must be created, opened and closed on one event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._journal, self._cache = redis.journal_connection(), redis.cache_connection()
        self._subscriptions = redis.open_cache()
        self._listener = Listener(self._subscriptions)
        self.intake = Intake(self._journal, self._listener)
        self.lookups = Lookups(self._cache)

    def open(self) -> None:
        """Open the service, which `current` then returns."""
        self._listener.open()
        _serving().service = self

    async def close(self) -> None:
        """Answer submitted writes, and close the connections."""
        _serving().service = None
        await self.intake.drain()
        await self._listener.close()
        await self._journal.close()
        await self._cache.close()
        await self._subscriptions.aclose()

    def submit(self, write: Write) -> Accepted:
        """Put a write into the journal, from a thread. Returns once it is on disk.

        Raises `JournalUnavailable` (it may or may not have been taken), `idempotency.Mismatch`, `ShardUnavailable`.
        """
        if write.claim and (earlier := write.claim.find()):
            return Accepted(earlier, repeated=True)
        return asyncio.run_coroutine_threadsafe(self._submitted(write), self.loop).result()

    async def _submitted(self, write: Write) -> Accepted:
        return await self.intake.submit(write)


class _Serving:
    """The service that is open, if one is."""

    service: Service | None = None


@owned
def _serving() -> _Serving:
    return _Serving()


def current() -> Service:
    """The service of this process. Raises `NotOpen`."""
    found = _serving().service
    if found is None:
        raise NotOpen("this process has opened no counters.service.Service")
    return found


@contextmanager
def in_background() -> Iterator[Service]:
    """Run a service on an event loop in its own thread while the block runs."""
    with LoopThread("service") as thread:
        service = thread.run(_opened())
        try:
            yield service
        finally:
            thread.run(service.close())


async def _opened() -> Service:
    service = Service()
    service.open()
    return service
