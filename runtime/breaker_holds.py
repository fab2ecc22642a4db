"""Breakers that an operator holds open: until they are closed by hand, or for some time.

The journal's Redis has them. Every process with breakers looks there once a second (`follow`). While that Redis does not
answer, the last look counts. Times are those of that Redis' clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import msgspec
import structlog

from runtime import breakers, redis

KEY = "breakers"  # a hash: name → `Hold`
LOOK_SECONDS = 1.0
log = structlog.get_logger(__name__)


class Hold(msgspec.Struct, frozen=True):
    """Who holds a breaker open, and why. Unix time in seconds; `until` is None if it is held until it is closed."""

    since: float
    until: float | None
    by: str
    reason: str


def hold(name: str, seconds: float | None, *, by: str, reason: str) -> None:
    """Hold a breaker open, for so many seconds or until `release`. Raises `RedisError`."""
    since = _seconds(*redis.journal().time())
    until = None if seconds is None else since + seconds
    redis.journal().hset(KEY, name, msgspec.json.encode(Hold(since, until, by, reason)))


def release(name: str) -> None:
    """Hold a breaker open no longer. Raises `RedisError`."""
    redis.journal().hdel(KEY, name)


def known() -> dict[str, Hold]:
    """The breakers that are held open, by name. Raises `RedisError`."""
    return _known()[1]


def follow() -> None:
    """Let this process's breakers follow. Raises `RedisError`."""
    _follow(*_known())


def heed(at: tuple[int, int], found: Mapping[bytes, bytes]) -> None:
    """As `follow`, by what somebody else has asked for: the reply of TIME, and the hash `KEY`."""
    _follow(*_held(at, found))


def _follow(now: float, found: Mapping[str, Hold]) -> None:
    breakers.held().until = {
        name: math.inf if one.until is None else time.monotonic() + one.until - now for name, one in found.items()
    }


def _known() -> tuple[float, dict[str, Hold]]:
    with redis.journal().pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.hgetall(KEY)
        at, found = pipe.execute()
    return _held(at, found)


def _held(at: tuple[int, int], found: Mapping[bytes, bytes]) -> tuple[float, dict[str, Hold]]:
    now = _seconds(*at)
    return now, {name: one for name, one in _decoded(found).items() if one.until is None or one.until > now}


def _decoded(found: Mapping[bytes, bytes]) -> dict[str, Hold]:
    holds = {}
    for name, text in found.items():
        try:
            holds[name.decode()] = msgspec.json.decode(text, type=Hold)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:  # another version's, perhaps
            log.warning("breaker_hold_unread", breaker=repr(name), error=str(error))
    return holds


def _seconds(seconds: int, microseconds: int) -> float:
    return seconds + microseconds / 1e6
