"""Heartbeats: processes record in the journal's Redis that they work, so that others can tell.

The times are those of that Redis' clock. A heartbeat is a hint (I4): it is not in the AOF and is lost when Redis
restarts, until the next one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from runtime import redis

KEY = "heartbeats"


def beat(ages: Mapping[str, float]) -> None:
    """Record that each of these names was last seen so many seconds ago. Raises `RedisError`."""
    redis.journal_script(Path(__file__).parent, "heartbeat")(
        [KEY], [field for name, age in ages.items() for field in (name, age)]
    )


def ask(pipe: Any) -> None:
    """Add the question for all heartbeats to a pipeline; `ages` takes its two answers."""
    pipe.time()
    pipe.zrange(KEY, 0, -1, withscores=True)


def ages(time: tuple[int, int], found: Iterable[tuple[bytes, float]]) -> dict[str, float]:
    """Seconds since each name was last seen, in the last day. A time in the future (the clock was set back) is
    omitted."""
    now = time[0] + time[1] / 1e6
    return {name.decode(): max(0.0, now - at) for name, at in found if at < now + 1}
