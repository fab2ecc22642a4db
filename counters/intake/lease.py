"""A lane's lease: which shift applies the lane now, or that a task was sent for it (`dispatch`).

The lease is a hint (I4). It expires by itself and is not in the AOF. Two shifts at once are only slower. A lease that
lasts longer than one can is from before Redis' clock was set back: it has expired.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from django.conf import settings

from counters.intake.journal import Journal, now, registered
from runtime import redis
from sharding.lanes import Lane


def duration() -> int:
    """The length of a lease in microseconds."""
    return int(settings.TALLY.lease_seconds * 1e6)


@dataclass(frozen=True)
class Lease:
    """The lease of one lane. Holds no connection and costs nothing to create. Its methods raise `RedisError`."""

    lane: Lane

    @cached_property
    def key(self) -> str:
        """Hash: `until` (microseconds), `holder` (none: a task was sent), `lingers` if the shift waits for more."""
        return f"journal:{self.lane}:shift"

    @cached_property
    def wake_channel(self) -> str:
        """Channel on which `append` wakes the shift if it lingers, or if a client waits for a result."""
        return f"journal:{self.lane}:wake"

    def holder(self) -> str | None:
        """The lease's holder: None if the lease has expired, "" if a task was sent and no shift has started."""
        held, until = redis.journal().hmget(self.key, "holder", "until")
        if until is None or not 0 < int(until) - now() <= duration():
            return None
        return "" if held is None else str(held.decode())

    def take(self, holder: str) -> bool:
        """Take the lease, or renew it. Returns False, changing nothing, if another shift has it."""
        return self._pass(holder, holder)

    def hand_over(self, holder: str = "") -> bool:
        """Pass the lease to the task that is about to be sent.

        Returns False, changing nothing, if a shift other than `holder` has it.
        """
        return self._pass(holder, "")

    def _pass(self, holder: str, to: str) -> bool:
        return bool(registered("hold")([self.key], [holder, to, duration()]))

    def linger(self, holder: str, after: int) -> bool:
        """Have every append wake the shift.

        Returns False, changing nothing, if entries follow the position `after` or another shift has the lease.
        """
        keys = [Journal(self.lane).positions_key, self.key]
        return bool(registered("linger")(keys, [holder, f"({after}", duration()]))

    def release(self, holder: str, after: int) -> bool:
        """Release the lease. Returns False, changing nothing, if entries follow the position `after`."""
        return bool(registered("release")([Journal(self.lane).positions_key, self.key], [holder, f"({after}"]))


class WakeUps:
    """A subscription to a lane's wake-ups, open until `close`. Not thread-safe; its methods raise `RedisError`.

    Pub/sub, not a list: a wait ends at the socket's time-out, but an idle Redis ends BLPOP up to 100 ms late.
    """

    def __init__(self, lane: Lane) -> None:
        self._messages = redis.journal().pubsub()
        self._messages.subscribe(Lease(lane).wake_channel)
        self._messages.get_message(timeout=settings.TALLY.redis_timeout_seconds)  # from now on no wake-up is missed

    def forget(self) -> None:
        """Discard the wake-ups received so far."""
        while self._messages.get_message() is not None:
            pass

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for a wake-up. Returns whether there was one."""
        return self._messages.get_message(timeout=max(0.0, seconds)) is not None

    def close(self) -> None:
        self._messages.close()
