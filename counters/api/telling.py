"""What this API process does, told when somebody asks (`runtime.pulses`): while nobody watches /status, nobody asks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog
from django.conf import settings
from redis.exceptions import RedisError

from counters.intake import intake
from counters.limits import limiter
from counters.operators import status
from counters.reading.popularity import Popularity
from runtime.pulses import Collects, Teller

_PAUSE_SECONDS = 0.8  # between two answers; several processes may ask
_HOT_EVERY = 5  # answers
log = structlog.get_logger(__name__)


class Telling:
    """Of one process; belongs to its event loop. `requests` counts those that it has answered."""

    def __init__(self, requests: Collects, popularity: Popularity) -> None:
        counters: Mapping[str, tuple[Collects, ...]] = {
            "requests": (requests,),
            "increments": (intake.ACCEPTED_INCREMENTS,),
            "refused": (intake.REFUSED, intake.LIMITED, limiter.LIMITED),
        }
        self._teller = Teller("api", settings.TALLY.node_id, counters)
        self._popularity = popularity
        self._loop = asyncio.get_running_loop()
        self._told_at = -_PAUSE_SECONDS
        self._number = 0
        self._task: asyncio.Task[None] | None = None

    def asked(self) -> None:
        """Tell, unless that was just done."""
        if self._loop.time() - self._told_at < _PAUSE_SECONDS or (self._task and not self._task.done()):
            return
        self._told_at = self._loop.time()
        self._task = self._loop.create_task(self._tell())

    def close(self) -> None:
        """Tell no more."""
        if self._task:
            self._task.cancel()

    async def _tell(self) -> None:
        hot = {} if self._number % _HOT_EVERY else self._popularity.rates(status.HOTTEST)
        self._number += 1
        try:
            await asyncio.to_thread(self._teller.tell, hot)
        except RedisError as error:
            log.debug("pulse_untold", error=str(error))
        except Exception:
            log.exception("telling_failed")
