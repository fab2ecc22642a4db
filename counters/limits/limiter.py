"""Decides whether a caller may use more of its quota now, with all other processes.

No request of a caller that is far below its quota waits: this process counts it and reports the sum later (`window`). A
caller that is known to be over its quota is refused from memory. All other requests share one round trip to Redis.

The counts are in the cache's Redis: they expire by themselves, and losing them is harmless. While it does not answer,
every request is let through, which the log and `tally_limits_let_through_total` tell.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from counters.limits.policies import Policy, Quotas
from counters.limits.window import Window
from runtime import redis
from runtime.group_commit import GroupCommit
from runtime.redis import LoopConnection, LoopStalled
from runtime.seldom import Seldom

REPORT_SECONDS = 0.5  # after that at the latest, other processes know what this one has counted
MOST_WINDOWS = 50_000  # that a process keeps; the count in Redis is not lost with them
_MOST_ASKED = 64  # of one round trip: the cache serves nothing else meanwhile
LIMITED = Counter("tally_limited_total", "Requests refused with 429 because their caller was over a limit", ["limit"])
LET_THROUGH = Counter("tally_limits_let_through_total", "Requests that no limit was asked of: its Redis did not answer")
log = structlog.get_logger(__name__)


class QuotaExceeded(Exception):
    """A caller is over its quota. `seconds`: until as much as it wanted may be free."""

    def __init__(self, policy: Policy, wanted: int, seconds: int) -> None:
        super().__init__(f"at most {policy.quota:,} {policy.unit} in {policy.seconds} s")
        self.policy, self.wanted, self.seconds = policy, wanted, seconds


class Charge(NamedTuple):
    """Units that a caller wants to use."""

    policy: Policy
    caller: str
    amount: int


class _Asked(NamedTuple):
    """`taken` resolves to whether the wanted units were free; None: nobody waits, it is a report."""

    window: Window
    wanted: int = 0
    taken: asyncio.Future[bool] | None = None


class Limiter:
    """Belongs to the event loop that it was created on. `keep` reports what was counted here, until it is cancelled."""

    def __init__(self, connection: LoopConnection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._script = redis.script(Path(__file__).parent, "count")
        self._windows: dict[tuple[str, str], Window] = {}
        self._pending: set[Window] = set()
        self._together: GroupCommit[_Asked | None] = GroupCommit(self._ask, most=_MOST_ASKED)
        self._is_away = False
        self._seldom = Seldom()

    async def take(self, policy: Policy, caller: str, amount: int = 1) -> None:
        """Count units that a caller uses. Raises `QuotaExceeded`."""
        now = self._loop.time()
        window = self._windows.get((policy.name, caller))
        if window is None:
            window = self._windows[policy.name, caller] = Window(policy, caller, now)
        elif window.policy is not policy:
            window.allow(policy)
        if self._is_away:
            LET_THROUGH.inc()
        elif pending := window.count(amount, now):
            if pending == amount:
                self._pending.add(window)
            if pending > window.report_above:
                self._report(window)
        elif window.seconds_to_wait(amount, now) or not await self._is_free(window, amount):
            LIMITED.labels(policy.name).inc()
            raise QuotaExceeded(policy, amount, window.seconds_to_wait(amount, self._loop.time()) or 1)

    def headers(self, quotas: Quotas, caller: str) -> list[tuple[bytes, bytes]]:
        """`RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10): what a caller may use, and what
        this process knows of what remains."""
        now, windows = self._loop.time(), self._windows
        items = [window.item(now) for policy in quotas.policies if (window := windows.get((policy.name, caller)))]
        return [(b"RateLimit-Policy", quotas.header), (b"RateLimit", ", ".join(items).encode())] if items else []

    async def keep(self) -> None:
        """Report what is pending, and forget windows that are over."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            if self._is_away:
                self._together.put(None)
            for window in self._pending:
                self._report(window)
            self._pending.clear()
            self._forget()

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    async def _is_free(self, window: Window, amount: int) -> bool:
        taken: asyncio.Future[bool] = self._loop.create_future()
        self._together.put(_Asked(window, amount, taken))
        return await taken

    def _report(self, window: Window) -> None:
        if not window.is_reporting and window.pending:
            window.is_reporting = True
            self._together.put(_Asked(window))

    async def _ask(self, together: list[_Asked | None]) -> None:
        """One round trip for all of them. None only asks whether the Redis is back: in its turn, as a connection is for one
        caller at a time."""
        asked = [one for one in together if one is not None]
        args: list[int] = []
        for window, wanted, _ in asked:
            args += (window.policy.quota, window.policy.seconds * 1000, window.report(), wanted)
        try:
            replies: Any = await self._connection.evaluate(self._script, [one.window.key for one in asked], args)
        except (RedisError, OSError) as error:
            self._miss(asked, error)
            return
        if self._is_away:
            self._is_away = False
            log.info("limits_in_force_again")
        now = self._loop.time()
        for (window, wanted, taken), (used, is_free, renews_ms, wait_ms) in zip(asked, replies, strict=True):
            window.is_reporting = False
            window.learn(used, renews_ms, now)
            if not is_free:
                window.refuse(wanted, wait_ms, now)
            if taken is not None and not taken.done():
                taken.set_result(bool(is_free))

    def _miss(self, asked: list[_Asked], error: Exception) -> None:
        """Let through who waits. `LoopStalled` says nothing of the Redis."""
        self._is_away = not isinstance(error, LoopStalled)
        if asked:
            self._seldom.log(log.warning, "limits_let_through", error=str(error))
        for window, _, taken in asked:
            window.is_reporting = False
            if taken is not None and not taken.done():
                LET_THROUGH.inc()
                taken.set_result(True)

    def _forget(self) -> None:
        now = self._loop.time()
        if len(self._windows) > MOST_WINDOWS:
            self._windows = {name: window for name, window in self._windows.items() if window.pending}
        else:
            over = [name for name, window in self._windows.items() if now - window.seen > window.policy.seconds]
            for name in over:
                del self._windows[name]
