"""Reads of keys that the cache has missed, on an event loop: concurrent ones share one read of the shard.

Within the process, a read joins the one of its key that is under way. Between processes, a lease in the cache's Redis
says who reads a key (Nishtala et al., 2013, "Scaling Memcache at Facebook", 3.2.1). Another process waits for the entry,
for `_WAIT_SECONDS` at most; then it reads by itself. A lease only saves work: what an entry may contain, versions decide
(I5).

A shard is asked one query at a time, for all keys that were missed meanwhile (`queries`).
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from prometheus_client import Counter as Metric

from counters.reading import cache, reads
from counters.reading.reads import Counter
from runtime.group_commit import GroupCommit
from runtime.redis import LoopConnection
from sharding import topology
from sharding.queries import Queries

MISSED = Metric("tally_cache_missed_total", "Reads of a key that the cache did not have")
SHARED = Metric("tally_cache_misses_shared_total", "Of these, those that joined another read of their key", ["reader"])
JOINED, WAITED = SHARED.labels("this process"), SHARED.labels("another process")

_WAIT_SECONDS = 0.05  # for another process's read; nginx allows little more than a read of a shard may take
_LOOK_SECONDS = 0.005  # between looks at whether it has ended
_MOST_LEASES = 256  # asked for at once: the cache serves nothing else meanwhile
_MOST_KEYS = 1000  # of a query


class _Miss(NamedTuple):
    key: str
    until: float  # when to read although another process has the lease (loop time)


class Misses:
    """Belongs to the event loop that it was created on. The topology must be loaded.

    `notice` is called with the cache's epoch whenever the cache was asked.
    """

    def __init__(self, connection: LoopConnection, notice: Callable[[str], None]) -> None:
        self._connection, self._notice = connection, notice
        self._text = cache.lease_text()
        self._leases: GroupCommit[_Miss] = GroupCommit(self._lease, most=_MOST_LEASES)
        self._reading: dict[str, Future[Counter]] = {}
        self._queries: Queries[str] = Queries(self._answer, most=_MOST_KEYS)

    def read(self, keys: Iterable[str]) -> dict[str, Future[Counter]]:
        """The reads of these keys, begun or joined. They belong to several callers, so nobody may cancel one. Each may
        raise `ShardUnavailable`."""
        loop = asyncio.get_running_loop()
        found = {}
        for key in keys:
            MISSED.inc()
            if key in self._reading:
                JOINED.inc()
            else:
                self._reading[key] = loop.create_future()
                self._leases.put(_Miss(key, loop.time() + _WAIT_SECONDS))
            found[key] = self._reading[key]
        return found

    async def _lease(self, missed: Sequence[_Miss]) -> None:
        """Begin the reads that are this process's."""
        try:
            leases = await cache.lease_on(self._connection, self._text, [one.key for one in missed])
        except Exception as error:  # otherwise all reads to come would wait for these
            self._fail((one.key for one in missed), error)
            raise
        if leases.epoch:
            self._notice(leases.epoch)
        loop = asyncio.get_running_loop()
        now, later = loop.time(), []
        for miss in missed:
            if miss.key in leases.found:
                WAITED.inc()
                (counter,) = reads.of_entries([miss.key], leases.found)
                self._reading.pop(miss.key).set_result(counter)
            elif miss.key in leases.others and now < miss.until:
                later.append(miss)
            else:
                self._queries.put(topology.current().shard_of(miss.key), miss.key)
        if later:
            loop.call_later(_LOOK_SECONDS, self._look_again, later)

    def _look_again(self, missed: Iterable[_Miss]) -> None:
        for miss in missed:
            self._leases.put(miss)

    async def _answer(self, shard: int, keys: list[str]) -> None:
        try:
            counters = await asyncio.to_thread(reads.of_shard, shard, keys, "eventual")
        except Exception as error:
            self._fail(keys, error)
            return
        for counter in counters:
            self._reading.pop(counter.key).set_result(counter)

    def _fail(self, keys: Iterable[str], error: Exception) -> None:
        for key in keys:
            failed = self._reading.pop(key)
            failed.set_exception(error)
            failed.exception()  # retrieved, although its readers may have gone
