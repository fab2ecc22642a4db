"""The refresher: puts values that a worker's transactions changed into the cache, and those that it could not put once
the cache is back."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from counters.reading import cache
from counters.reading.cache import Value
from sharding.lanes import Lane

UNREFRESHED = Counter("tally_cache_unrefreshed_total", "Values that could not be put into the cache at once")
_MOST_LEFT = 100_000  # values kept for a lane
log = structlog.get_logger(__name__)


class Refresher:
    """One per worker. Thread-safe."""

    def __init__(self) -> None:
        self._left: dict[Lane, dict[str, Value]] = {}
        self._lock = Lock()

    def refresh(self, lane: Lane, values: Sequence[Value]) -> None:
        """Put the values that a transaction of a lane wrote, or keep them for `put_left`."""
        try:
            cache.refresh(lane, values)
        except RedisError as error:
            UNREFRESHED.inc(len(values))
            log.warning("cache_unrefreshed", values=len(values), error=str(error))
            self._keep(lane, values)

    def put_left(self) -> None:
        """Put what could not be put at once. Another worker may have committed newer values meanwhile, so they count as
        those of a node that has applied nothing after them."""
        for lane in list(self._left):
            with self._lock:
                values = list(self._left.pop(lane, {}).values())
            try:
                cache.refresh(lane, values, through=max((version for _, _, version in values), default=0))
                log.info("cache_refreshed_late", lane=str(lane), values=len(values))
            except RedisError:
                self._keep(lane, values)

    def _keep(self, lane: Lane, values: Sequence[Value]) -> None:
        """Keep the newest value of each key."""
        with self._lock:
            left = self._left.setdefault(lane, {})
            for value in values:
                key, _, version = value
                if version >= left.get(key, (key, 0, 0))[2] and (key in left or len(left) < _MOST_LEFT):
                    left[key] = value
