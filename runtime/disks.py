"""Room on the servers' disks: measured by a process beside each server (`manage.py disks`), which records it in the
journal's Redis, so that others can tell.

That process also decides whether the room is too little, so that all who ask agree. A reading is a hint, like a
heartbeat: it is not in the AOF and is lost when Redis restarts, until the next one a second later.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from runtime import redis

KEY = "disks"
TELL_SECONDS = 1.0  # between readings
SILENT_SECONDS = 5.0  # after which a reading says nothing any more
AGAIN = 1.25  # a disk that was short has room again from this many times the reserve


class Room(NamedTuple):
    """Bytes of a server's file system: those that are free for it, and all. `short`: too few are free."""

    free: int
    total: int
    short: bool


def measure(paths: Iterable[Path], reserve: int, *, was_short: bool) -> Room:
    """The room of the fullest of the file systems that these paths are on. `reserve` in bytes. Raises `OSError`."""
    found = (os.statvfs(path) for path in paths)
    free, total = min((one.f_bavail * one.f_frsize, one.f_blocks * one.f_frsize) for one in found)
    return Room(free, total, is_short(free, reserve, was_short=was_short))


def is_short(free: int, reserve: int, *, was_short: bool) -> bool:
    """Whether so few bytes are too few. A disk that was short must have some more, so that the answer does not flap."""
    return free < reserve * (AGAIN if was_short else 1)


def tell(rooms: Mapping[str, Room]) -> None:
    """Record readings by server. Raises `RedisError`."""
    redis.journal_script(Path(__file__).parent, "disks")(
        [KEY], [field for server, room in rooms.items() for field in (server, " ".join(map(str, map(int, room))))]
    )


def ask(pipe: Any) -> None:
    """Add the question for all readings to a pipeline; `rooms` takes its two answers."""
    pipe.time()
    pipe.hgetall(KEY)


def rooms(time: tuple[int, int], found: Mapping[bytes, bytes]) -> dict[str, Room]:
    """The readings of the last seconds, by server."""
    readings = {server.decode(): [int(number) for number in text.split()] for server, text in found.items()}
    return {
        server: Room(free, total, bool(short))
        for server, (at, free, total, short) in readings.items()
        if abs(time[0] - at) <= SILENT_SECONDS
    }
