"""The pace of a shift: how many batches a window takes, and how long the shift rests after it.

Most of the cost is per transaction and per key, and a window with several times the increments has few more keys. So
while no client waits for a result, the next window may grow.
"""

from __future__ import annotations

from django.conf import settings

FIRST_BATCHES, MOST_BATCHES = 512, 4096  # in a window
# The rest after a single batch; under load, four times as long as the last transaction took, for each lane of the
# shard, within these bounds.
_REST_SECONDS = 0.05
_RESTS, _LEAST_SECONDS, _MOST_SECONDS = 4, 0.2, 0.5


class Pace:
    """`most` is the maximum number of batches in the next window."""

    def __init__(self) -> None:
        self.most = FIRST_BATCHES

    def singly(self) -> None:
        """Take batches one by one for now."""
        self.most = 1

    def took(self, seconds: float) -> None:
        """Keep transactions short: fewer batches after a slow one, more after a quick one."""
        if seconds > settings.TALLY.window_seconds:
            self.most = max(1, self.most // 2)
        elif seconds < settings.TALLY.window_seconds / 2:
            self.most = min(MOST_BATCHES, self.most * 2)


def rest(entries: int, seconds: float, lanes: int) -> float:
    """Seconds to rest after a window of `entries` entries that took `seconds`, in a shard of `lanes` lanes.

    A shard's lanes share its processors, so each lane rests for all of them. A window of a single batch shows no load.
    """
    if entries == 1:
        return _REST_SECONDS
    return min(max(_RESTS * lanes * seconds, _LEAST_SECONDS), _MOST_SECONDS)
