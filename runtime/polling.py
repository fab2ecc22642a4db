"""Polling: check repeatedly until a condition holds or the time is over. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import inf
from time import monotonic, sleep
from typing import TypeVar

T = TypeVar("T")


def attempts(seconds: float, *, pause: float, grow: float = 1.0, most: float = inf) -> Iterator[float]:
    """Yield the seconds left: at once, after each pause, and a last time when none are left.

    Each pause is `grow` times as long as the previous one, up to `most` seconds. An attempt that ends after the
    deadline is the last.

        for _ in polling.attempts(30, pause=0.1):
            if is_so():
                return
        raise TimeoutError
    """
    end = monotonic() + seconds
    left = seconds
    while True:
        yield max(0.0, left)
        if (left := end - monotonic()) <= 0:
            return
        sleep(min(pause, left))
        left = end - monotonic()
        pause = min(pause * grow, most)


def until(condition: Callable[[], T], seconds: float, *, pause: float, grow: float = 1.0, most: float = inf) -> T:
    """Call a condition at the times of `attempts`. Returns its first true result, or else its last result."""
    for _ in attempts(seconds, pause=pause, grow=grow, most=most):
        if answer := condition():
            break
    return answer
