"""Look-ups in the cache on an event loop: concurrent reads share one, as writes share a flush."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from redis.asyncio import Redis as AsyncRedis

from counters.reading import cache, reads
from counters.reading.reads import Counter
from runtime.group_commit import GroupCommit

_MOST = 64  # in one look-up: the cache does nothing else meanwhile


class _Asked(NamedTuple):
    keys: Sequence[str]
    found: asyncio.Future[list[Counter] | None]


class Lookups:
    """Lives on the event loop on which it was made."""

    def __init__(self, client: AsyncRedis) -> None:
        self._client = client
        self._together: GroupCommit[_Asked] = GroupCommit(self._look_up, most=_MOST)

    def get(self, keys: Sequence[str]) -> asyncio.Future[list[Counter] | None]:
        """Counters in the order asked for, if the cache has all of them. The topology must have been loaded."""
        asked = _Asked(keys, asyncio.get_running_loop().create_future())
        self._together.put(asked)
        return asked.found

    async def _look_up(self, lookups: list[_Asked]) -> None:
        entries = await cache.get_many_on(self._client, [key for asked in lookups for key in asked.keys])
        for keys, found in lookups:
            if not found.done():
                found.set_result(reads.of_entries(keys, entries) if all(key in entries for key in keys) else None)
