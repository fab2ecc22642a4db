"""The journal's contents, for people: how full each shard's journal is, its entries, and whether they are applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import islice
from typing import Literal, NamedTuple
from uuid import UUID

from counters import batch
from counters.intake import journal
from counters.intake.journal import Entry, Journal
from counters.intake.set_aside import SetAsideBatches, lanes_with_set_aside
from counters.operators import applied_records
from sharding.lanes import EXCESS, FRESH, STALE, Lane, Queue

DECODED_BYTES = 4 * 1024 * 1024  # of batches that are decoded for one page, to count writes and keys

State = Literal["queued", "waiting", "set aside", "unknown"]


@dataclass(frozen=True, slots=True)
class Summary:
    """One shard's journal. `age` is the age of its oldest entry, `bytes` the memory of its batches. The same of its spill
    queues: `excess` and `stale`."""

    shard: int
    depth: int
    age: timedelta
    bytes: int
    set_aside: int
    degraded: bool
    excess: Spilled
    stale: Spilled


class Spilled(NamedTuple):
    """A spill queue of a shard: increments, batches and age of the oldest entry."""

    increments: int
    depth: int
    age: timedelta


@dataclass(frozen=True, slots=True)
class Held:
    """A batch in the journal. `writes` and `keys` are None if not counted; `reason` says why the batch was set
    aside."""

    lane: Lane
    batch: UUID
    position: int
    age: timedelta
    state: State
    size: int = 0
    writes: int | None = None
    keys: int | None = None
    reason: str = ""

    @property
    def pk(self) -> str:
        """Its name in the admin."""
        return f"{self.lane}-{self.batch.hex}"

    @property
    def shard(self) -> int:
        return self.lane.shard

    @property
    def at(self) -> datetime:
        """When it was accepted."""
        return datetime.fromtimestamp(self.position / 1e6, UTC)


def summary(shard: int) -> Summary:
    """How full a shard's journal is. Raises `RedisError`."""
    journals = [Journal(lane) for lane in journal.occupied(shard, (FRESH,))]
    return Summary(
        shard,
        sum(one.depth() for one in journals),
        timedelta(seconds=int(max((0.0, *(one.age() for one in journals))))),
        sum(one.size() for one in journals),
        sum(SetAsideBatches(lane).count() for lane in lanes_with_set_aside(shard)),
        degraded=journal.is_degraded(shard),
        excess=spilled(shard, EXCESS),
        stale=spilled(shard, STALE),
    )


def spilled(shard: int, queue: Queue) -> Spilled:
    """How full a spill queue of a shard is. Raises `RedisError`."""
    journals = [Journal(lane) for lane in journal.occupied(shard, (queue,))]
    age = max((0.0, *(one.age() for one in journals)))
    depth = sum(one.depth() for one in journals)
    return Spilled(journal.backlog(shard, queue).increments, depth, timedelta(seconds=int(age)))


def entries(shard: int, *, after: tuple[int, Lane], limit: int) -> list[Held]:
    """A shard's entries after a (position, lane), the oldest first, without their contents. Raises `RedisError`."""
    position, of = after

    def behind(lane: Lane) -> int:  # a flush has the same position in several lanes
        return position - 1 if lane > of else position

    found = [
        [(entry.position, lane, entry) for entry in Journal(lane).entries(after=behind(lane), limit=limit)]
        for lane in journal.occupied(shard)
    ]
    return _held(shard, [(lane, entry) for _, lane, entry in islice(merge(*found, key=lambda one: one[:2]), limit)])


def _held(shard: int, found: Sequence[tuple[Lane, Entry]]) -> list[Held]:
    now = journal.now()
    applied = applied_records.applied(shard, [entry.id for _, entry in found])

    def state(lane: Lane, id: UUID) -> State:
        return "unknown" if applied is None else "waiting" if (id, lane.place) in applied else "queued"

    return [
        Held(lane, entry.id, entry.position, _age(entry.position, now), state(lane, entry.id)) for lane, entry in found
    ]


def set_aside(shard: int, *, before: tuple[UUID, Lane] | None, limit: int) -> list[Held]:
    """Batches that a shard's workers set aside, in descending order of (id, lane), starting below `before`. Raises
    `RedisError`."""
    lanes = lanes_with_set_aside(shard)
    places = sorted(((id, lane) for lane in lanes for id in SetAsideBatches(lane).ids()), reverse=True)
    return _set_aside([place for place in places if before is None or place < before][:limit])


def _set_aside(places: Sequence[tuple[UUID, Lane]]) -> list[Held]:
    now = journal.now()
    ids: dict[Lane, list[UUID]] = {}
    for id, lane in places:
        ids.setdefault(lane, []).append(id)
    found = {
        (one.id, lane): Held(
            lane, one.id, one.position, _age(one.position, now), "set aside", one.size, reason=one.reason
        )
        for lane, here in ids.items()
        for one in SetAsideBatches(lane).heads(here)
    }
    return [found[place] for place in places if place in found]


def find(shard: int, id: UUID) -> list[Held]:
    """A flush's batches in any of a shard's journals, queued or set aside. Raises `RedisError`."""
    lanes = journal.occupied(shard)
    entries = [
        (lane, Entry(id, at)) for lane, at in zip(lanes, journal.positions(lanes, id), strict=True) if at is not None
    ]
    return _held(shard, entries) + _set_aside([(id, lane) for lane in lanes_with_set_aside(shard)])


def measured(held: Sequence[Held]) -> list[Held]:
    """Add the size of each batch, and its writes and keys for up to `DECODED_BYTES`. Raises `RedisError`."""
    result = {one.pk: one for one in held}
    left = DECODED_BYTES
    for lane in sorted({one.lane for one in held}):
        here = [one for one in held if one.lane == lane and one.state != "set aside"]
        few = []
        for one, size in zip(here, Journal(lane).sizes([one.batch for one in here]), strict=True):
            result[one.pk] = replace(one, size=size)
            if size <= left:
                few.append(one.pk)
                left -= size
        for pk, data in zip(few, Journal(lane).payloads([result[pk].batch for pk in few]), strict=True):
            result[pk] = _counted(result[pk], data)
    return list(result.values())


def _counted(one: Held, data: bytes | None) -> Held:
    try:
        decoded = batch.decode(data) if data is not None else None
    except batch.BadBatch:
        return one  # its worker will set it aside
    if decoded is None:
        return one
    return replace(one, writes=len({index for index, _ in decoded.segments}), keys=decoded.operations)


def _age(position: int, now: int) -> timedelta:
    return timedelta(seconds=max(0, now - position) // 1_000_000)
