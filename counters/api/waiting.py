"""`?wait=`: how long a request may wait, and how many may at once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Semaphore

from django.conf import settings
from rest_framework.request import Request

from counters.api.problems import invalid
from runtime import event_loop

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")  # as in JSON


def seconds(request: Request, default: float = 0.0) -> float:
    """`?wait=`, or the default where there is none. Raises `Problem` 400."""
    text = request.query_params.get("wait") if request._request.META["QUERY_STRING"] else None  # most have none: not parsed
    if text is None:
        return default
    most = settings.TALLY.max_wait_seconds
    asked = float(text) if _NUMBER.fullmatch(text) else math.nan
    if not 0 <= asked <= most:
        raise invalid("wait", f"a number of seconds from 0 to {most:g}")
    return asked


@cache
def _places() -> Semaphore:
    return Semaphore(settings.TALLY.max_waiting)


@contextmanager
def room(seconds: float) -> Iterator[bool]:
    """Whether there is room to wait for so long, now or (not for 0 seconds) in a moment.

    While a shard is away, the threads that are left serve the others.
    """
    event_loop.forbid()
    there_is = _places().acquire(timeout=min(1.0, seconds))
    try:
        yield there_is
    finally:
        if there_is:
            _places().release()
