"""`?wait=`: how long a request may wait to be applied, and how many may wait at once.

For a moment, any number of requests can wait for the worker's message. A longer wait takes a thread, which also asks
the shard. Their number is limited, so while a shard is down other threads remain for requests to other shards.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Semaphore

from django.conf import settings
from rest_framework.request import Request

from counters import service
from counters.api.problems import invalid
from counters.intake.writes import Accepted, Write
from counters.limits.limiter import Charge
from counters.outcome import Outcome
from counters.reading import write_status
from counters.service import Service
from counters.write_id import WriteId
from runtime.resources import owned

_MOMENT_SECONDS = 1.0
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")  # as in JSON


def seconds(request: Request, default: float = 0.0) -> float:
    """The seconds of `?wait=`, or the default without it. Raises `Problem` 400."""
    return parsed(request.query_params.get("wait"), default)


def parsed(text: str | None, default: float = 0.0) -> float:
    """The seconds in the value of `?wait=`, or the default for None. Raises `Problem` 400."""
    if text is None:
        return default
    most = settings.TALLY.max_wait_seconds
    asked = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 0 <= asked <= most:
        raise invalid("wait", f"a number of seconds from 0 to {most:g}")
    return asked


@owned
def _places() -> Semaphore:
    return Semaphore(settings.TALLY.max_waiting)


@contextmanager
def room(seconds: float) -> Iterator[bool]:
    """Take a place to wait during the block. Yields whether a place was free within `seconds`, 1 at most."""
    places = _places()
    there_is = places.acquire(timeout=min(1.0, seconds))
    try:
        yield there_is
    finally:
        if there_is:
            places.release()


def applied(write: Write, seconds: float, charge: Charge | None = None) -> tuple[Accepted, Outcome | None]:
    """Submit a step from a thread and wait for its outcome: None if that takes longer than `seconds`, or if too many
    requests wait already.

    Raises as `Service.submit`.
    """
    serving = service.current()
    accepted = serving.submit(write, charge)
    if accepted.repeated or write.outcome is None:
        return accepted, _wait(accepted.id, seconds, None)
    done, _ = futures.wait([write.outcome], min(_MOMENT_SECONDS, seconds))
    if done:
        return accepted, write.outcome.result()
    outcome = _wait(accepted.id, seconds - _MOMENT_SECONDS, write.outcome)
    serving.loop.call_soon_threadsafe(serving.intake.listener.forget, accepted.id.batch, accepted.id.index)
    return accepted, outcome


async def applied_on(
    serving: Service, write: Write, seconds: float, charge: Charge | None = None
) -> tuple[Accepted, Outcome | None]:
    """`applied` for a coroutine."""
    accepted = await serving.submitted(write, charge)
    if accepted.repeated or write.outcome is None:
        return accepted, await asyncio.to_thread(_wait, accepted.id, seconds, None)
    done, _ = await asyncio.wait([asyncio.wrap_future(write.outcome)], timeout=min(_MOMENT_SECONDS, seconds))
    if done:
        return accepted, write.outcome.result()
    outcome = await asyncio.to_thread(_wait, accepted.id, seconds - _MOMENT_SECONDS, write.outcome)
    serving.intake.listener.forget(accepted.id.batch, accepted.id.index)
    return accepted, outcome


def _wait(write: WriteId, seconds: float, outcome: Future[Outcome] | None) -> Outcome | None:
    with room(0) as there_is:
        return write_status.wait(write, seconds, outcome) if there_is else None
