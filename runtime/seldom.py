"""Log lines that a stranger can cause, kept few: a log must not fill because somebody sends bad requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import Any


class Seldom:
    """Logs at most `most` lines of each event in `seconds`, and with the next one how many were left out. Thread-safe."""

    def __init__(self, most: int = 5, seconds: float = 10.0) -> None:
        self._most, self._seconds = most, seconds
        self._lock = Lock()
        self._windows: dict[str, tuple[float, int]] = {}  # by event: when its window began, and its lines until now

    def log(self, write: Callable[..., Any], event: str, **fields: Any) -> None:
        """`write(event, **fields)`, with `left_out` if lines of the previous window were."""
        now = time.monotonic()
        with self._lock:
            began, count = self._windows.get(event, (float("-inf"), 0))
            left_out = 0
            if now - began > self._seconds:
                left_out, began, count = max(0, count - self._most), now, 0
            self._windows[event] = began, count + 1
        if count < self._most:
            write(event, **fields, **({"left_out": left_out} if left_out else {}))
