"""The copies of a replicated journal: how many there are, and going on with one while a replica is missing.

Sentinel promotes a replica whatever that replica lacks. As long as all replicas confirm each append, none lacks anything
acknowledged. With `TALLY_JOURNAL_ONE_COPY`, writes are accepted without a confirmation while `journal.ONE_COPY` exists.
The invariant that keeps them safe from a failover:

    While ONE_COPY exists on a primary, and until a replica has confirmed its deletion, no replica can be promoted.

The *fence* ensures it: Sentinels that are told to wait for weeks (`down-after-milliseconds`) never agree that the primary
is down. A fence holds if the Sentinels that lack it are too few to agree. Its steps are taken one at a time, under a
lock:

1. Fence the Sentinels.
2. A second later at least, see that all of them call this server the primary and that none fails over; or, if some do not
   answer, that a majority does and that any failover from before the fence has timed out. Then set ONE_COPY.
3. When enough replicas are connected again, delete ONE_COPY. The replicas confirm this and thus all that was appended
   before. Then lift the fence.

An append reads ONE_COPY in the script that writes. So a write that was accepted without a confirmation precedes the
deletion. If the primary's disk is lost in the meantime, so are the writes that only it had: the price of the setting.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from django.conf import settings
from redis.exceptions import LockError, RedisError

from counters.intake import journal
from counters.intake.journal import ONE_COPY
from runtime import redis

FENCE = "journal:fence"  # hash: `at`, when the Sentinels were fenced; by address, what each had before (ms)
FENCED_MS = 2_000_000_000  # Sentinel reads it from its file as a 32-bit number
PATIENCE_SECONDS = 5.0  # that a replica may be missing, as during its restart, before the journal goes on without it
_CALM_SECONDS = 1.0  # for a Sentinel to see that its primary is not down
_LOCK_SECONDS, _SAFE_SECONDS = 60.0, 20.0  # life of the lock, and how long its holder may act
_DEFAULT_DOWN_AFTER_MS = 5000
log = structlog.get_logger(__name__)


def count() -> int:
    """How many copies the journal has now, with the primary's. Raises `RedisError`."""
    return counted(redis.journal().info("replication"))


def counted(info: Mapping[str, Any]) -> int:
    """How many copies there are by the primary's INFO replication."""
    replicas = [value for value in info.values() if isinstance(value, dict)]
    return 1 + sum(1 for replica in replicas if replica.get("state") == "online")


def wanted() -> int:
    """How many copies the settings ask for."""
    return 1 + int(settings.TALLY.journal_replicas)


def trouble(found: int, *, one_copy: bool) -> str:
    """What is to be said of so many copies; "" if there are enough."""
    if found >= wanted():
        return ""
    state = "writes are accepted with one copy" if one_copy else "writes are refused"
    return f"the journal has {found} of {wanted()} copies; {state}"


def is_one_copy() -> bool:
    """Whether writes are accepted without a confirmation. Raises `RedisError`."""
    return bool(redis.journal().exists(ONE_COPY))


class Keeper:
    """Takes the next step towards one copy, or back, whenever it is asked to. Every worker has one."""

    def __init__(self) -> None:
        self._missing_since: float | None = None  # monotonic seconds

    def mind(self) -> None:
        """Look, and take at most one step. Raises `RedisError`."""
        if not settings.TALLY.journal_replicas or not settings.TALLY.journal_sentinels:
            return
        if count() > settings.TALLY.journal_replicas:
            self._missing_since = None
            if redis.journal().exists(ONE_COPY, FENCE):
                _locked(_leave)
            return
        self._missing_since = self._missing_since or time.monotonic()
        if (
            settings.TALLY.journal_one_copy
            and time.monotonic() - self._missing_since >= PATIENCE_SECONDS
            and not is_one_copy()
        ):
            _locked(_enter)


def _locked(step: Callable[[float], None]) -> None:
    """Take a step, unless another process takes one; it gets the monotonic time until which it may act."""
    lock = redis.journal().lock("journal:one_copy:lock", timeout=_LOCK_SECONDS, blocking=False)
    if lock.acquire():
        with suppress(LockError):
            step(time.monotonic() + _SAFE_SECONDS)
            lock.release()


def _enter(until: float) -> None:
    at = redis.journal().hget(FENCE, "at")
    if at is None:
        _fence()
        return
    primary = _calm_primary((journal.now() - int(at)) / 1e6)
    if primary and time.monotonic() < until and journal.registered("enter_one_copy")([ONE_COPY], [primary]):
        log.error("journal_one_copy", copies=count())


def _fence() -> None:
    every = settings.TALLY.journal_sentinels
    for address, state in _states().items():
        if state["down-after-milliseconds"] < FENCED_MS:
            redis.journal().hset(FENCE, address, state["down-after-milliseconds"])
    if _set_down_after(dict.fromkeys(every, FENCED_MS)) > len(every) // 2:
        redis.journal().hset(FENCE, "at", journal.now())
        log.warning("journal_fenced")


def _calm_primary(fenced_seconds: float) -> str | None:
    """The run id of the primary, if no failover can be under way; `fenced_seconds` ago the fence was put up."""
    if fenced_seconds < _CALM_SECONDS:
        return None
    told = list(_states().values())
    calm = [state for state in told if state["flags"] == "master" and state["down-after-milliseconds"] == FENCED_MS]
    runs = {state["runid"] for state in calm}
    every = len(settings.TALLY.journal_sentinels)
    over = max((2 * state["failover-timeout"] / 1000 for state in told), default=0.0) + _CALM_SECONDS
    enough = len(calm) == every or (len(calm) > every // 2 and len(calm) == len(told) and fenced_seconds > over)
    return str(runs.pop()) if enough and len(runs) == 1 else None


def _leave(until: float) -> None:
    journal.forget_one_copy()
    redis.journal().hdel(FENCE, "at")
    every = settings.TALLY.journal_sentinels
    usual = dict(zip(every, redis.journal().hmget(FENCE, every), strict=True))
    lifted = {address: int(ms or _DEFAULT_DOWN_AFTER_MS) for address, ms in usual.items()}
    if time.monotonic() < until and _set_down_after(lifted) == len(every):
        redis.journal().delete(FENCE)  # else the next step tells the others
        log.warning("journal_has_its_copies", copies=count())


def _states() -> dict[str, dict[str, Any]]:
    """What the Sentinels that answer know of the primary, by their addresses."""
    return _answers(lambda _: ("SENTINEL MASTER", settings.TALLY.journal_service))


def _set_down_after(milliseconds: Mapping[str, int]) -> int:
    """Set the time-out of each Sentinel. Returns how many have it now."""
    service = settings.TALLY.journal_service
    return len(_answers(lambda one: ("SENTINEL SET", service, "down-after-milliseconds", milliseconds[one])))


def _answers(command_for: Callable[[str], Sequence[Any]]) -> dict[str, Any]:
    """The answers of the Sentinels that do answer, by their addresses."""
    found = {}
    for address, sentinel in zip(settings.TALLY.journal_sentinels, redis.sentinels().sentinels, strict=True):
        try:
            found[address] = sentinel.execute_command(*command_for(address))
        except RedisError as error:
            log.warning("sentinel_silent", error=str(error))
    return found
