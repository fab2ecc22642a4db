"""How far behind a replica's data are, from what it has received and applied at several moments. Pure.

PostgreSQL does not keep when a replica received something. So the bounds come from earlier looks at the same replica:
what it had received at an earlier look had arrived by then. If all of that is applied, the replica is behind by no more
than the time since that look. If some of it is not, the replica is behind by no less.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

_MOST_LOOKS = 64  # without the oldest ones the bounds are wider and still right


class Behind(NamedTuple):
    """Bounds, in seconds, of how long ago the oldest data that a replica has received and not applied arrived."""

    least: float
    most: float


class Looks:
    """Earlier looks at one replica. Positions only rise, and so do the times (seconds, of any clock) of the looks."""

    def __init__(self) -> None:
        self._applied_at = float("-inf")  # all that was received by then is applied
        self._pending: deque[tuple[float, int]] = deque(
            maxlen=_MOST_LOOKS
        )  # (time, received), not yet known to be applied

    def look(self, now: float, received: int, applied: int) -> Behind:
        """Remember a look, and say how far behind the replica is."""
        self._pending.append((now, received))
        while self._pending and self._pending[0][1] <= applied:
            self._applied_at, _ = self._pending.popleft()
        return Behind(now - self._pending[0][0] if self._pending else 0.0, now - self._applied_at)
