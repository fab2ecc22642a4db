"""The event loop of an API process, on which nothing may wait (`counter_project.handler`)."""

from __future__ import annotations

from asyncio import events


class WouldBlock(BaseException):
    """Raised on an event loop instead of waiting for another program. The request is run again in a thread.

    No `Exception`: neither Django nor DRF nor a breaker takes it for something that went wrong.
    """


def is_running() -> bool:
    """Whether this thread runs an event loop now."""
    return events._get_running_loop() is not None


def forbid() -> None:
    """Called by whatever is about to wait. Raises `WouldBlock` on an event loop."""
    if is_running():
        raise WouldBlock
