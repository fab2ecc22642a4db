"""The lanes, for people: what waits in each queue, who applies it, which counters wait in a spill queue; and waking one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings

from counters import batch
from counters.intake import dispatch, lease
from counters.intake.journal import Journal
from counters.intake.lease import Lease
from counters.intake.set_aside import SetAsideBatches
from runtime import redis
from sharding import topology
from sharding.lanes import EXCESS, FRESH, MOST, Lane, Queue

BROKER_AWAY = "The broker did not take the message; the relay sends it again by itself."
_LOOKED_INTO = 20  # batches of a spill queue, to name its counters
_LOOKED_INTO_BYTES = 1024 * 1024  # of all queues of a page


@dataclass(frozen=True, slots=True)
class Row:
    """A queue of a lane. `age`: of its oldest entry. `holder`: as `Lease.holder`, without what tells a worker's shifts apart.
    `in_force`: the topology has the lane; one that is not is left over from another number of lanes."""

    lane: Lane
    batches: int
    increments: int
    bytes: int
    age: timedelta
    holder: str | None
    set_aside: int
    in_force: bool

    @property
    def pk(self) -> str:
        """Its name in the admin."""
        return str(self.lane)

    @property
    def applied_by(self) -> str:
        """The worker that applies it, or that a task was sent; "" if nobody does."""
        return "" if self.holder is None else self.holder or "(a task was sent)"


def overview(shards: Iterable[int], queues: Sequence[Queue] = (FRESH,)) -> list[Row]:
    """The queues of these shards that have entries or set-aside batches, and fresh ones that the topology has, in their
    order. One round trip. Raises `RedisError`."""
    shards = list(shards)
    in_force = set(topology.current().lanes) if topology.is_loaded() else set()
    lanes = [Lane(shard, number, queue) for shard in shards for number in range(MOST) for queue in queues]
    with redis.journal().pipeline(transaction=False) as pipe:
        pipe.time()
        for shard in shards:
            for queue in queues:
                pipe.hgetall(Journal(Lane(shard, 0, queue)).backlog_key)
        for lane in lanes:
            _ask(pipe, lane)
        (seconds, micros), *rest = pipe.execute()
    answers = iter(rest)
    backlogs = {(shard, queue): next(answers) for shard in shards for queue in queues}
    now = int(seconds) * 1_000_000 + int(micros)
    rows = [_row(lane, now, backlogs[lane.shard, lane.queue], answers, lane in in_force) for lane in lanes]
    return [one for one in rows if one.batches or one.set_aside or one.in_force]


def _ask(pipe: Any, lane: Lane) -> None:
    pipe.zcard(Journal(lane).positions_key)
    pipe.zrange(Journal(lane).positions_key, 0, 0, withscores=True)
    pipe.hmget(Lease(lane).key, "holder", "until")
    pipe.hlen(SetAsideBatches(lane).key)


def _row(lane: Lane, now: int, backlog: dict[bytes, bytes], answers: Iterator[Any], in_force: bool) -> Row:
    batches, oldest, (holder, until), set_aside = (next(answers) for _ in range(4))
    held = until is not None and 0 < int(until) - now <= lease.duration()
    number = str(lane.number).encode()
    return Row(
        lane,
        int(batches),
        int(backlog.get(number, 0)),
        int(backlog.get(number + b":bytes", 0)),
        timedelta(seconds=max(0, now - int(oldest[0][1])) // 1_000_000 if oldest else 0),
        (holder or b"").decode().partition("#")[0] if held else None,
        int(set_aside),
        in_force,
    )


@dataclass(frozen=True, slots=True)
class SpillRow:
    """A spill queue that has entries, and the counters that most of its oldest batches have."""

    row: Row
    counters: list[str]

    @property
    def pk(self) -> str:
        return self.row.pk


def spill_queues(rows: Iterable[Row]) -> list[SpillRow]:
    """What is in these spill queues. Raises `RedisError`."""
    left, found = _LOOKED_INTO_BYTES, []
    for row in rows:
        counters, size = _counters(row.lane, left)
        left -= size
        found.append(SpillRow(row, counters))
    return found


def limit_of(queue: Queue) -> int | None:
    """How many increments a shard's queues of a kind may have together; None without a limit."""
    return settings.TALLY.excess_increments if queue == EXCESS else None


def _counters(lane: Lane, most_bytes: int) -> tuple[list[str], int]:
    """Up to three counters of a queue's oldest batches, and how many bytes were read for them."""
    ids = [entry.id for entry in Journal(lane).entries(limit=_LOOKED_INTO)]
    few, size = [], 0
    for id, bytes_ in zip(ids, Journal(lane).sizes(ids), strict=True):
        if size + bytes_ > most_bytes:
            break
        few.append(id)
        size += bytes_
    keys: Counter[str] = Counter()
    for data in Journal(lane).payloads(few):
        try:
            keys.update(set(batch.decode(data).keys) if data is not None else ())
        except batch.BadBatch:
            continue  # its worker will set it aside
    return [key for key, _ in sorted(keys.items(), key=lambda one: (-one[1], one[0]))[:3]], size


def wake(text: str) -> str:
    """Send the task of a lane or spill queue, named as it is printed, now. Counts nothing twice: a task that finds another at
    work ends. Returns "" if the broker has it, or else why not. Raises `RedisError`."""
    try:
        lane = Lane.parse(text)
    except ValueError:
        return f"There is no lane {text}: one is written as 0.3, a spill queue as 0.3:excess or 0.3:stale."
    if not 0 <= lane.shard < settings.TALLY.shard_count:
        return f"There is no shard {lane.shard}."
    if not Journal(lane).depth():
        return f"Nothing waits in {lane}."
    return "" if dispatch.send(lane) else BROKER_AWAY
