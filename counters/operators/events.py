"""What has changed lately in the system: a capped list in the cache's Redis.

Every few seconds one process looks at everything and compares it with the look before (`recording`), so events are there
when somebody opens /status, and last as long as the cache. A hint (I4), like the pulses.
"""

from __future__ import annotations

import msgspec

from counters.operators.history import Change, changes
from runtime import redis

MOST = 50
_EVENTS, _STATES, _TURN = "events", "events:states", "events:turn"


def last() -> list[Change]:
    """The newest first. Raises `RedisError`."""
    return [msgspec.json.decode(one, type=Change) for one in redis.cache().lrange(_EVENTS, 0, MOST - 1)]


def take_turn(name: str, seconds: float) -> bool:
    """Whether the process of this name is the one that looks, for so many seconds from now on: nobody else does, or it did
    already. Raises `RedisError`."""
    lasts = int(seconds * 1000)
    if redis.cache().set(_TURN, name, nx=True, px=lasts):
        return True
    return redis.cache().get(_TURN) == name.encode() and bool(redis.cache().pexpire(_TURN, lasts))


def note(states: dict[str, tuple[str, str]], at: float) -> list[Change]:
    """Compare the states with those of the look before, and keep what differs. Raises `RedisError`."""
    found = redis.cache().get(_STATES)
    before = msgspec.json.decode(found, type=dict[str, str]) if found else {}
    new = changes(before, states, at)
    if new:
        redis.cache().lpush(_EVENTS, *map(msgspec.json.encode, new))
        redis.cache().ltrim(_EVENTS, 0, MOST - 1)
    after = before | {name: state for name, (state, _) in states.items()}
    if after != before:
        redis.cache().set(_STATES, msgspec.json.encode(after))
    return new
