"""The lease of a lane: who applies it now, or that a task was sent for it (`dispatch`).

The lease is a hint (I4). It runs out by itself and is not in the AOF; two shifts at once are slower, and nothing worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from django.conf import settings

from counters.intake.journal import Journal, now, registered
from runtime import redis
from sharding.lanes import Lane


def duration() -> int:
    """Microseconds for which a lane is left to whoever holds its lease."""
    return int(settings.TALLY.lease_seconds * 1e6)


@dataclass(frozen=True)
class Lease:
    """The lease of one lane. It holds no connection, and costs nothing to make; its methods raise `RedisError`."""

    lane: Lane

    @cached_property
    def key(self) -> str:
        """Hash: `until` (microseconds), `holder` (none: a task was sent), `lingers` if the shift waits for more."""
        return f"journal:{self.lane}:shift"

    @cached_property
    def wake_channel(self) -> str:
        """Where `append` wakes a shift that lingers, or rests while an operation comes whose result is awaited."""
        return f"journal:{self.lane}:wake"

    def holder(self) -> str | None:
        """Who applies the lane: None if the lease has run out, "" if a task was sent and no shift has begun."""
        held, until = redis.journal().hmget(self.key, "holder", "until")
        if until is None or int(until) <= now():
            return None
        return "" if held is None else str(held.decode())

    def take(self, holder: str) -> bool:
        """Take the lease, or renew it. Returns False, changing nothing, if another shift has it."""
        return self._pass(holder, holder)

    def hand_over(self, holder: str = "") -> bool:
        """Have the lease for the task that is to be sent.

        Returns False, changing nothing, if another than `holder` has it.
        """
        return self._pass(holder, "")

    def _pass(self, holder: str, to: str) -> bool:
        return bool(registered("hold")([self.key], [holder, to, duration()]))

    def linger(self, holder: str, after: int) -> bool:
        """Have every append wake the shift.

        Returns False, changing nothing, if entries follow the position `after`, or the lease is another's.
        """
        keys = [Journal(self.lane).positions_key, self.key]
        return bool(registered("linger")(keys, [holder, f"({after}", duration()]))

    def release(self, holder: str, after: int) -> bool:
        """Give the lease back. Returns False, changing nothing, if entries follow the position `after`."""
        return bool(registered("release")([Journal(self.lane).positions_key, self.key], [holder, f"({after}"]))


class WakeUps:
    """What wakes a lane's shift, from here on until `close`. Not thread-safe; its methods raise `RedisError`.

    Published, not kept in a list: a wait ends with the socket's time-out; an idle Redis ends BLPOP up to 100 ms late.
    """

    def __init__(self, lane: Lane) -> None:
        self._messages = redis.journal().pubsub()
        self._messages.subscribe(Lease(lane).wake_channel)
        self._messages.get_message(timeout=settings.TALLY.redis_timeout_seconds)  # from here on nothing is missed

    def forget(self) -> None:
        """What came until now wakes nobody."""
        while self._messages.get_message() is not None:
            pass

    def wait(self, seconds: float) -> bool:
        """Wait for a wake-up, so long at most; whether there was one."""
        return self._messages.get_message(timeout=max(0.0, seconds)) is not None

    def close(self) -> None:
        self._messages.close()
