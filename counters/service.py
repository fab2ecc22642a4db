"""The service of a process that takes writes: connections on an event loop, intake, and cache look-ups.

The server opens one on its loop (`counters.api.application`); a command opens one in a background thread
(`in_background`). Threads reach it by `current()`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any, TypeVar

import structlog
from django.conf import settings
from redis.exceptions import RedisError

from counters.intake.claims import Claims
from counters.intake.idempotency import Claim
from counters.intake.intake import Intake
from counters.intake.outcomes import Listener
from counters.intake.room import Guard
from counters.intake.writes import Accepted, Write
from counters.limits.limiter import Charge, Limiter
from counters.reading.lookups import Lookups
from counters.reading.misses import Misses
from counters.reading.pending import Pending
from counters.reading.popularity import Popularity
from counters.reading.reads import Counter
from counters.reading.warming import Warmer
from runtime import breaker_holds, disks, event_loop, redis, request_id
from runtime.event_loop import LoopThread
from runtime.resources import owned

T = TypeVar("T")
log = structlog.get_logger(__name__)


class NotOpen(RuntimeError):
    """This process takes no writes: it has no open service."""


class Service:
    """Must be created, opened and closed on one event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._journal, self._cache, self._leases = (
            redis.journal_connection(),
            redis.cache_connection(),
            redis.cache_connection(),
        )
        self._subscriptions = redis.open_cache()
        self.listener = Listener(self._subscriptions)
        self._guard = Guard()
        self.popularity = Popularity(settings.TALLY.warm_keys, Random())  # noqa: S311 - which reads are counted
        self._looks, self._warming = redis.journal_connection(), redis.cache_connection()
        self._warmer = Warmer(self.popularity, self._warming)
        self._keeping: list[asyncio.Task[None]] = []
        self._claims = Claims()
        self.intake = Intake(self._journal, self.listener, self._guard)
        self.lookups = Lookups(self._cache, Misses(self._leases, self._warmer.notice), self.popularity)
        self.pending = Pending(redis.journal_connection())
        self.limits = Limiter(redis.cache_connection())

    def open(self) -> None:
        """Open the service, which `current` then returns."""
        self.listener.open()
        keeping = self._look(), self._warmer.keep(), self.limits.keep()
        self._keeping = [event_loop.keep(self.loop, work) for work in keeping]
        _serving().service = self

    async def close(self) -> None:
        """Answer submitted writes, and close the connections."""
        _serving().service = None
        await self.intake.drain()
        for task in self._keeping:
            task.cancel()
        await self.limits.close()
        await self.pending.close()
        await self.listener.close()
        for connection in (self._journal, self._cache, self._leases, self._looks, self._warming):
            await connection.close()
        await self._subscriptions.aclose()

    def submit(self, write: Write, charge: Charge | None = None) -> Accepted:
        """As `submitted`, from a thread."""
        return self.run(self.submitted(write, charge))

    async def earlier(self, claim: Claim | None) -> Accepted | None:
        """The write of an earlier request with the same claim, if it is applied. Raises `idempotency.Mismatch`,
        `ShardUnavailable`."""
        if claim is None or (found := await self._claims.find(claim)) is None:
            return None
        request_id.made(found[0])
        return Accepted(*found, repeated=True)

    async def submitted(self, write: Write, charge: Charge | None = None) -> Accepted:
        """Put a write into the journal, unless an earlier request with its claim has. Returns once it is on disk.

        It passes the quota of its caller, then the limits of its counters and of their lanes. What these refuse was charged
        nevertheless. A repeated write that is applied is charged nothing.

        Raises `QuotaExceeded` (the caller may not use that many increments now), `Limited` and `NoRoom` (it was not taken),
        `JournalUnavailable` (it may or may not have been taken), `idempotency.Mismatch`, `ShardUnavailable`.
        """
        if earlier := await self.earlier(write.claim):
            return earlier
        if charge is not None:
            await self.limits.take(*charge)
        return await self.intake.submit(write)

    def read(self, keys: Sequence[str]) -> list[Counter]:
        """Counters in the order of `keys`, from a thread. The topology must be loaded. Raises `ShardUnavailable`."""
        return self.run(self._read(keys))

    def pending_of(self, counters: Sequence[Counter]) -> list[int | None]:
        """As `Pending.of`, from a thread."""
        return self.run(self.pending.of(counters))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work on the service's loop, from a thread. Raises what it raises."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _look(self) -> None:
        """Learn of the servers' disks, and let this process's breakers follow what operators order, until cancelled."""
        while True:
            try:
                await self._look_once()
            except (RedisError, OSError) as error:  # the last look counts
                log.debug("not_looked", error=str(error))
            except Exception:
                log.exception("look_failed")
            await asyncio.sleep(breaker_holds.LOOK_SECONDS)

    async def _look_once(self) -> None:
        commands = ("TIME",), ("HGETALL", disks.KEY), ("HGETALL", breaker_holds.KEY)
        now, readings, holds = await self._looks.execute_each(*commands)
        time = int(now[0]), int(now[1])
        breaker_holds.heed(time, redis.hash_of(holds))
        await self._guard.learn(disks.rooms(time, redis.hash_of(readings)))

    async def _read(self, keys: Sequence[str]) -> list[Counter]:
        return await self.lookups.get(keys)


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
