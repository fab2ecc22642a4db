"""The event loop of an API process, on which nothing may wait (`counter_project.handler`)."""

from __future__ import annotations

import asyncio
from asyncio import events
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from typing import Any, TypeVar

from django.conf import settings

T = TypeVar("T")


class WouldBlock(BaseException):
    """Raised on an event loop instead of waiting for another program. The request is run again in a thread.

    No `Exception`: neither Django nor DRF nor a breaker takes it for something that went wrong.
    """


class _Attempt:
    """The request that is tried now. One at a time: what is tried gives the loop to nobody."""

    loop: asyncio.AbstractEventLoop | None = None
    has_acted = False


def is_running() -> bool:
    """Whether this thread runs the event loop on which requests are tried (Flower has one of its own, which may wait)."""
    running = events._get_running_loop()
    return running is not None and running is _Attempt.loop


def attempt(function: Callable[..., T], *args: Any) -> T:
    """Run a function on the event loop. Raises `WouldBlock`, and then it has done nothing; and what the function raises."""
    _Attempt.loop, _Attempt.has_acted = events._get_running_loop(), False
    return function(*args)


def act() -> None:
    """Called by what must not be done twice, right before it: from here on the request is not run again."""
    if is_running():
        _Attempt.has_acted = True


def forbid() -> None:
    """Called by whatever is about to wait. Raises `WouldBlock` on an event loop, `RuntimeError` if it is too late for that."""
    if is_running():
        if _Attempt.has_acted:
            raise RuntimeError("something waits on the event loop after it has acted")
        raise WouldBlock


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """What a function that may wait returns; it runs in one of `TALLY_API_THREADS` threads."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), copy_context().run, function, *args)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(settings.TALLY.api_threads, thread_name_prefix="request")
