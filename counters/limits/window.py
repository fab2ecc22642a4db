"""What one process knows of a caller's use of a quota. Pure: times are seconds of the process's own clock.

All processes share one count in Redis (`lua/count.lua`). A process may count some units by itself and report them
later: up to `quota / UNREPORTED_SHARE`, and only while at least an eighth of the quota was free at its last report. So
the sum over N processes never exceeds the quota by more than N / UNREPORTED_SHARE of it. A quota below `EXACT_BELOW`, or
of which less than an eighth is left, is counted in Redis alone, and is exact.
"""

from __future__ import annotations

from math import ceil

from counters.limits.policies import Policy

UNREPORTED_SHARE = 120
EXACT_BELOW = 12_000
REFUSAL_SECONDS = 1.0  # how long a refusal is repeated without asking again: a quota may have been raised


class Window:
    """One caller's use of one quota: `used` as last told by Redis, and `pending`, counted here and not reported yet."""

    __slots__ = (
        "_enough_at",
        "_most_pending",
        "_most_used",
        "_over_by",
        "_over_until",
        "_renews_at",
        "is_reporting",
        "key",
        "pending",
        "policy",
        "report_above",
        "seen",
        "used",
    )

    def __init__(self, policy: Policy, caller: str, now: float) -> None:
        self.key = f"limit:{policy.name}:{caller}"
        self.used = self.pending = 0
        self.is_reporting = False
        self.seen = now
        self._renews_at = now + policy.seconds
        self._allow(policy)

    def allow(self, policy: Policy) -> None:
        """Take over another quota, if it is another."""
        if policy != self.policy:
            self._allow(policy)

    def _allow(self, policy: Policy) -> None:
        self.policy = policy
        self._most_pending = policy.quota // UNREPORTED_SHARE if policy.quota >= EXACT_BELOW else 0
        self._most_used = policy.quota * 7 // 8  # above that, Redis alone counts
        self.report_above = self._most_pending // 2
        self._over_by, self._over_until, self._enough_at = 0, 0.0, 0.0

    def count(self, amount: int, now: float) -> int:
        """Count units here, if that needs no other process. Returns what is pending then, or 0 if it was not counted."""
        self.seen = now
        pending = self.pending + amount
        if pending > self._most_pending or self.used + pending > self._most_used:
            return 0
        self.pending = pending
        return pending

    def seconds_to_wait(self, amount: int, now: float) -> int:
        """Whole seconds until so many units may be free; 0 if that is not known to take any."""
        if amount < self._over_by or now >= self._over_until:
            return 0
        return max(1, ceil(self._enough_at - now))

    def report(self) -> int:
        """What is pending, now taken as reported."""
        pending, self.pending = self.pending, 0
        self.used += pending
        return pending

    def learn(self, used: int, renews_ms: int, now: float) -> None:
        """Redis has told what all processes have used, and when the oldest of it leaves the window."""
        self.used = used
        self._renews_at = now + renews_ms / 1000

    def refuse(self, amount: int, wait_ms: int, now: float) -> None:
        """Redis has refused so many units: they may be free after `wait_ms`."""
        self._enough_at = now + wait_ms / 1000
        self._over_by, self._over_until = amount, min(self._enough_at, now + REFUSAL_SECONDS)

    def item(self, now: float) -> str:
        """This use in a `RateLimit` header: what remains, and seconds until more does."""
        left = self.policy.quota - self.used - self.pending
        seconds = self._renews_at - now
        return f'"{self.policy.name}";r={left if left > 0 else 0};t={ceil(seconds) if seconds > 0 else 0}'
