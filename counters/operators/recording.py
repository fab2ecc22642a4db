"""Recording of the last minutes, for /status, whether somebody watches or not: this API process tells what it has done,
and in turn with the others looks at the whole system."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog
from django.conf import settings
from redis.exceptions import RedisError

from counters.intake import intake
from counters.limits import limiter
from counters.operators import events, status
from counters.reading.popularity import Popularity
from runtime import pulses
from runtime.pulses import Collects, Pulse, Teller

PULSE_SECONDS = 1.0
_HOT_EVERY = 5  # pulses
log = structlog.get_logger(__name__)


class Recorder:
    """Of one API process. `requests` counts those that it has answered."""

    def __init__(self, requests: Collects, popularity: Popularity) -> None:
        counters: Mapping[str, tuple[Collects, ...]] = {
            "requests": (requests,),
            "increments": (intake.ACCEPTED_INCREMENTS,),
            "refused": (intake.REFUSED, intake.LIMITED, limiter.LIMITED),
        }
        self._teller = Teller("api", settings.TALLY.node_id, counters)
        self._popularity = popularity

    async def keep(self) -> None:
        """Record until this is cancelled. While the cache is down nothing is recorded."""
        number = 0
        while True:
            await asyncio.sleep(PULSE_SECONDS)
            number += 1
            hot = {} if number % _HOT_EVERY else self._popularity.rates(status.HOTTEST)
            try:
                await asyncio.to_thread(self._record, hot)
            except RedisError as error:
                log.debug("status_unrecorded", error=str(error))
            except Exception:
                log.exception("recording_failed")
                await asyncio.sleep(_HOT_EVERY)

    def _record(self, hot: Mapping[str, float]) -> None:
        """Raises `RedisError`."""
        self._teller.tell(hot)
        if events.take_turn():
            found = status.look().result()
            pulses.tell(Pulse("look", settings.TALLY.node_id, levels=status.levels(found)))
            events.note(status.states(found), found.at)
