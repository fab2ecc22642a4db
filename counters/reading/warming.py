"""Warming: a cache that was emptied or replaced gets the counters that are read most, before they are asked for.

Each process knows what it was asked for most (`popularity`), so the list outlives the cache. It looks at the cache's
epoch once a second, and with every key that the cache has missed: with the first one after `FLUSHALL`. If the epoch is
another, the processes warm the cache in turns, each with keys that are still missing. So all of them together keep the
rate, `TALLY_WARM_KEYS_PER_SECOND`, and no key is read twice. Replicas are asked, one query for many keys of a shard, and
the entries are written as those of any other read (I5).

The announcements of shifts (`reading.cache`) went with the entries. They are made up for first, from the primaries.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

import structlog
from django.conf import settings
from prometheus_client import Counter
from redis.exceptions import RedisError

from counters.reading import cache, reads
from counters.reading.popularity import Popularity
from runtime.redis import LoopConnection
from sharding import topology
from sharding.databases import ShardUnavailable
from sharding.lanes import Lane

EMPTIED = Counter("tally_cache_emptied_total", "Times that this process found the cache emptied or replaced")
WARMED = Counter("tally_cache_warmed_total", "Counters that this process has read to warm the cache")
_LOOK_SECONDS = 1.0
_BATCH = 200  # keys of a turn
log = structlog.get_logger(__name__)


class Warmer:
    """Belongs to the event loop that it was created on. `keep` works until it is cancelled."""

    def __init__(self, popularity: Popularity, connection: LoopConnection) -> None:
        """`connection`: to the cache, for nobody else."""
        self._popularity, self._connection = popularity, connection
        self._script = cache.lease_text()
        self._epoch = ""  # of the cache as it is or was warm; "" before the first look
        self._noticed = asyncio.Event()

    def notice(self, epoch: str) -> None:
        """The cache has this epoch. Costs next to nothing."""
        if epoch != self._epoch:
            self._noticed.set()

    async def keep(self) -> None:
        """Look at the epoch, and warm a cache that has another one."""
        ticked = time.monotonic()
        while True:
            now = time.monotonic()
            self._popularity.tick(now - ticked)
            ticked = now
            try:
                await self._look()
            except (RedisError, OSError) as error:  # what is left is done when the cache is back
                log.debug("cache_unwarmed", error=str(error))
            except Exception:
                log.exception("warming_failed")
                await asyncio.sleep(_LOOK_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._noticed.wait(), _LOOK_SECONDS)
            self._noticed.clear()

    async def _look(self) -> None:
        epoch = await cache.epoch_on(self._connection, self._script)
        if self._epoch and epoch != self._epoch:
            EMPTIED.inc()
            await self._warm()
        self._epoch = epoch

    async def _warm(self) -> None:
        """Read what the cache lacks of the keys that are read most. Raises `RedisError`."""
        began, read = time.monotonic(), 0
        keys = self._popularity.hottest()
        log.info("cache_emptied", keys=len(keys))
        await asyncio.to_thread(_announce)
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            while (turn := await asyncio.to_thread(_take_turn, batch)) is None:
                await asyncio.sleep(_turn_seconds(len(batch)))
            read += turn
        log.info("cache_warmed", keys=len(keys), read=read, seconds=round(time.monotonic() - began, 3))


def _announce() -> None:
    """Announce what the lanes have committed. Raises `RedisError`."""
    committed: dict[Lane, int] = {}
    for shard in range(settings.TALLY.shard_count):
        try:
            rows, _ = reads.ask(shard, lambda conn: reads.rows_of(conn, []), replicas=False)
        except ShardUnavailable as error:
            log.warning("shard_unannounced", error=str(error))
            continue
        committed |= {Lane(shard, number): version for number, version in rows.through.items()}
    cache.emptied(committed)


def _take_turn(keys: Sequence[str]) -> int | None:
    """Read those of the keys that the cache lacks and nobody reads. Returns how many, or None if it is another
    process's turn. Raises `RedisError`."""
    entries = cache.entries(keys)
    missing = [key for key in keys if key not in entries]
    if not missing:
        return 0
    if not cache.take_turn(_turn_seconds(len(missing))):
        return None
    leases = cache.lease(missing)
    left = [key for key in missing if key not in leases.found and key not in leases.others]
    read = 0
    for shard, its_keys in topology.current().by_shard(left).items():
        try:
            read += len(reads.of_shard(shard, its_keys, "eventual"))
        except ShardUnavailable as error:
            log.warning("shard_unwarmed", error=str(error))
    WARMED.inc(read)
    return read


def _turn_seconds(keys: int) -> float:
    """How long a turn is, so that the rate is kept."""
    return keys / settings.TALLY.warm_keys_per_second
