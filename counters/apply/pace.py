"""The pace of a shift: how many batches a window takes, and how long the shift rests after it.

Most of the cost is for each transaction and for each key, and a window with several times the increments has few keys
more. So while nobody waits for a result, the next window may grow.
"""

from __future__ import annotations

from django.conf import settings

FIRST_BATCHES, MOST_BATCHES = 512, 4096  # in a window
# The shortest rest; under load, four times as long as the last transaction took, for each lane of the shard, within
# these bounds.
_REST_SECONDS = 0.05
_RESTS, _LEAST_SECONDS, _MOST_SECONDS = 4, 0.2, 0.5


class Pace:
    """`most` is the number of batches that the next window may have."""

    def __init__(self) -> None:
        self.most = FIRST_BATCHES

    def singly(self) -> None:
        """Take batches one by one for now."""
        self.most = 1

    def took(self, seconds: float) -> None:
        """Keep transactions short: fewer batches after one that took too long, more after a quick one."""
        if seconds > settings.TALLY.window_seconds:
            self.most = max(1, self.most // 2)
        elif seconds < settings.TALLY.window_seconds / 2:
            self.most = min(MOST_BATCHES, self.most * 2)


def rest(entries: int, seconds: float, lanes: int) -> float:
    """Seconds to rest after a window of so many entries that took `seconds`, in a shard of so many lanes.

    All lanes of the shard share its processors, so each rests for all of them. A window of a single batch shows no
    load.
    """
    if entries == 1:
        return _REST_SECONDS
    return min(max(_RESTS * lanes * seconds, _LEAST_SECONDS), _MOST_SECONDS)
