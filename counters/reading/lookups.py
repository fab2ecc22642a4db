"""Reads on an event loop: concurrent reads share a cache look-up, as writes share a flush.

Keys that the cache misses are read from their shards (`misses`). No look-up waits for that, and a shard that hangs
delays only its own keys.

Entries that are due are read again in the background, those of a fifth of a second by one query per shard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from prometheus_client import Counter as Metric

from counters.reading import cache, reads
from counters.reading.misses import Misses
from counters.reading.popularity import Popularity
from counters.reading.reads import Counter
from runtime import request_id
from runtime.group_commit import GroupCommit
from runtime.redis import LoopConnection
from sharding import topology

LOOKED_UP = Metric(
    "tally_cache_looked_up_total", "Keys of reads that the cache was asked for; see tally_cache_missed_total"
)
log = structlog.get_logger(__name__)

_MOST = 64  # reads that share a look-up: the cache serves nothing else meanwhile
_DUE_SECONDS = 0.2  # time to gather entries that are due


class _Asked(NamedTuple):
    keys: Sequence[str]
    found: asyncio.Future[list[Counter]]


class Lookups:
    """Belongs to the event loop that it was created on. The topology must be loaded."""

    def __init__(self, connection: LoopConnection, misses: Misses, popularity: Popularity) -> None:
        self._connection, self._misses, self._popularity = connection, misses, popularity
        self._together: GroupCommit[_Asked] = GroupCommit(self._look_up, most=_MOST)
        self._running: set[asyncio.Task[Any]] = set()
        self._due: set[str] = set()
        self._refresh: asyncio.Task[None] | None = None

    def get(self, keys: Sequence[str]) -> asyncio.Future[list[Counter]]:
        """Counters in the order of `keys`, as `reads.get_many` returns them. The future raises `ShardUnavailable`."""
        asked = _Asked(keys, asyncio.get_running_loop().create_future())
        self._together.put(asked)
        return asked.found

    async def _look_up(self, lookups: list[_Asked]) -> None:
        keys = [key for asked in lookups for key in asked.keys]
        self._popularity.count(keys)
        LOOKED_UP.inc(len(set(keys)))  # as often as those that are missed are counted
        entries, due = await cache.get_many_on(self._connection, keys)
        left = []
        for asked in lookups:
            if not all(key in entries for key in asked.keys):
                left.append(asked)
            elif not asked.found.done():  # the request may have been cancelled
                asked.found.set_result(reads.of_entries(asked.keys, entries))
        if left:
            self._ask(left, entries)
        if due:
            self._read_again(due)

    def _ask(self, left: list[_Asked], entries: Mapping[str, tuple[int, int]]) -> None:
        """Read the keys from their shards that these reads miss."""
        reading = self._misses.read(dict.fromkeys(key for asked in left for key in asked.keys if key not in entries))
        for asked in left:
            self._started(_answer(asked, entries, reading))

    def _read_again(self, due: Iterable[str]) -> None:
        """Refresh entries before they expire."""
        self._due.update(due)
        if self._refresh is None:
            self._refresh = self._started(self._refresh_due())

    async def _refresh_due(self) -> None:
        """Ends when no entry is due."""
        try:
            while self._due:
                await asyncio.sleep(_DUE_SECONDS)
                due, self._due = self._due, set()
                groups = topology.current().by_shard(due)
                queries = [asyncio.to_thread(reads.of_shard, shard, keys, "eventual") for shard, keys in groups.items()]
                for failure in await asyncio.gather(*queries, return_exceptions=True):
                    if isinstance(failure, BaseException):
                        log.warning("cache_not_refreshed", error=str(failure))
        finally:
            self._refresh = None

    def _started(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, context=request_id.nobody())
        self._running.add(task)  # the loop keeps no strong reference
        task.add_done_callback(self._running.discard)
        return task


async def _answer(
    asked: _Asked, entries: Mapping[str, tuple[int, int]], reading: Mapping[str, asyncio.Future[Counter]]
) -> None:
    """Resolve one read as soon as all of its keys are read."""
    found = {counter.key: counter for counter in reads.of_entries(entries, entries)}
    try:
        for key in asked.keys:
            if key not in found:
                found[key] = await reading[key]
    except Exception as error:
        if not asked.found.done():
            asked.found.set_exception(error)
        return
    if not asked.found.done():
        asked.found.set_result([found[key] for key in asked.keys])
