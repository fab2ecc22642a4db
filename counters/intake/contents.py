"""What the journal holds, for people: how full it is for each shard, its entries, and whether they are applied already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from counters import books
from counters.intake import batch, journal
from counters.intake.batch import Increments

DECODED_BYTES = 4 * 1024 * 1024  # of batches that one page decodes to count what is in them

State = Literal["queued", "waiting", "set aside", "unknown"]


@dataclass(frozen=True, slots=True)
class Summary:
    """One shard's journal. `age` is that of its oldest entry, `bytes` the memory that its batches take."""

    shard: int
    depth: int
    age: timedelta
    bytes: int
    set_aside: int
    degraded: bool


@dataclass(frozen=True, slots=True)
class Held:
    """A batch that the journal holds. `writes` and `keys` are None if they were not counted, `reason` is why it was set aside."""

    shard: int
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
        return f"{self.shard}-{self.batch.hex}"

    @property
    def at(self) -> datetime:
        """When it was accepted."""
        return datetime.fromtimestamp(self.position / 1e6, UTC)


def summary(shard: int) -> Summary:
    """How full a shard's journal is. Raises `RedisError`."""
    oldest = journal.entries(shard, limit=1)
    age = _age(oldest[0].position, journal.now()) if oldest else timedelta()
    return Summary(
        shard, journal.depth(shard), age, journal.size(shard), journal.set_aside_count(shard), degraded=journal.is_degraded(shard)
    )


def entries(shard: int, *, after: tuple[int, int], limit: int) -> list[Held]:
    """A shard's entries behind a (position, shard), the oldest first, without what is in them. Raises `RedisError`."""
    position, of = after  # one flush has one position in several shards
    return _held(shard, journal.entries(shard, after=position - 1 if shard > of else position, limit=limit))


def _held(shard: int, found: Sequence[journal.Entry]) -> list[Held]:
    now = journal.now()
    applied = books.applied(shard, [entry.id for entry in found])

    def state(id: UUID) -> State:
        return "unknown" if applied is None else "waiting" if id in applied else "queued"

    return [Held(shard, entry.id, entry.position, _age(entry.position, now), state(entry.id)) for entry in found]


def set_aside(shard: int, *, before: tuple[UUID, int] | None, limit: int) -> list[Held]:
    """Batches that a shard's worker set aside, by falling id, from below an (id, shard) on. Raises `RedisError`."""
    ids = [id for id in journal.set_aside_ids(shard) if before is None or (id, shard) < before]
    return _set_aside(shard, ids[:limit])


def _set_aside(shard: int, ids: Sequence[UUID]) -> list[Held]:
    now = journal.now()
    return [
        Held(shard, one.id, one.position, _age(one.position, now), "set aside", one.size, reason=one.reason)
        for one in journal.set_aside_batches(shard, ids)
    ]


def find(shard: int, id: UUID) -> list[Held]:
    """A batch, wherever a shard's journal holds it. Raises `RedisError`."""
    position = journal.position(shard, id)
    return _held(shard, [] if position is None else [journal.Entry(id, position)]) + _set_aside(shard, [id])


def measured(held: Sequence[Held]) -> list[Held]:
    """The same with the size of each batch and what is in it, as far as `DECODED_BYTES` go. Raises `RedisError`."""
    result = {one.pk: one for one in held}
    left = DECODED_BYTES
    for shard in sorted({one.shard for one in held}):
        here = [one for one in held if one.shard == shard and one.state != "set aside"]
        few = []
        for one, size in zip(here, journal.sizes(shard, [one.batch for one in here]), strict=True):
            result[one.pk] = replace(one, size=size)
            if size <= left:
                few.append(one.pk)
                left -= size
        for pk, data in zip(few, journal.payloads(shard, [result[pk].batch for pk in few]), strict=True):
            result[pk] = _counted(result[pk], data)
    return list(result.values())


def _counted(one: Held, data: bytes | None) -> Held:
    try:
        segments = batch.decode(data).segments if data is not None else None
    except batch.BadBatch:
        return one  # its worker will say so
    if segments is None:
        return one
    keys = sum(len(operation.keys) if isinstance(operation, Increments) else 1 for _, operation in segments)
    return replace(one, writes=len({index for index, _ in segments}), keys=keys)


def _age(position: int, now: int) -> timedelta:
    return timedelta(seconds=max(0, now - position) // 1_000_000)
