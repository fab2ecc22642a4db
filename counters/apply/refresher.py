"""The refresher: puts values that a worker's transactions changed into the cache, and retries failed puts later."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

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
    """One per worker. One thread at a time refreshes a lane, as its shifts take turns."""

    def __init__(self) -> None:
        self._left: defaultdict[Lane, dict[str, Value]] = defaultdict(dict)

    def refresh(self, lane: Lane, values: Sequence[Value]) -> None:
        """Put the values that a transaction of a lane wrote, and those that earlier ones could not put."""
        left = self._left[lane]
        try:
            cache.refresh(lane, [*left.values(), *values])
            left.clear()
        except RedisError as error:
            UNREFRESHED.inc(len(values))
            log.warning("cache_unrefreshed", values=len(values), error=str(error))
            left.update({value[0]: value for value in values[: _MOST_LEFT - len(left)]})
