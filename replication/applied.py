"""How far behind a replica's data are, from what it has received and applied at several moments. Pure.

PostgreSQL does not record when a replica received data. So the bounds come from earlier looks at the same replica:
whatever a look saw as received had arrived by then. If all of it is applied now, the replica is behind by at most the
time since that look. If some of it is not, the replica is behind by at least that time.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

_MOST_LOOKS = 64  # dropping the oldest ones widens the bounds, which stay correct


class Behind(NamedTuple):
    """Bounds, in seconds, on the age of the oldest data that a replica has received but not applied."""

    least: float
    most: float


class Looks:
    """Earlier looks at one replica. Positions and times (seconds, by any clock) must never decrease."""

    def __init__(self) -> None:
        self._applied_at = float("-inf")  # everything received by this time is applied
        self._pending: deque[tuple[float, int]] = deque(
            maxlen=_MOST_LOOKS
        )  # (time, received), not yet known to be applied

    def look(self, now: float, received: int, applied: int) -> Behind:
        """Record a look. Returns how far behind the replica is."""
        self._pending.append((now, received))
        while self._pending and self._pending[0][1] <= applied:
            self._applied_at, _ = self._pending.popleft()
        return Behind(now - self._pending[0][0] if self._pending else 0.0, now - self._applied_at)
