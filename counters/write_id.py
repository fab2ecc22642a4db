"""The id of a write, as clients see it: which batch, which write in it, which lanes. Pure.

The id is enough to find the write, so no table of writes is needed. Lanes are printed shard by shard, as `SHARD:MASK`:
bit `n` of the hexadecimal mask is lane `n`, bit `16 + n` its excess queue. A shard with only lane 0 is printed without a
mask, as ids were before lanes. An id does not name a stale queue: what went there was queued when the id was given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

from sharding.lanes import EXCESS, FRESH, MOST, Lane, by_shard

WRITE_ID_PATTERN = r"[0-9a-f]{32}-[0-9a-f]{1,8}-[0-9]{1,2}(:[0-9a-f]{1,8})?(\.[0-9]{1,2}(:[0-9a-f]{1,8})?){0,63}"
_write_id = re.compile(WRITE_ID_PATTERN)


@dataclass(frozen=True, slots=True)
class WriteId:
    """`batch` is the id shared by its batches (one per lane), `index` the write's place in them. `lanes` are in
    ascending order."""

    batch: UUID
    index: int
    lanes: tuple[Lane, ...]

    def __str__(self) -> str:
        return f"{self.batch.hex}-{self.index:x}-{'.'.join(map(_printed, by_shard(self.lanes).values()))}"

    @property
    def shards(self) -> tuple[int, ...]:
        """The shards of its lanes, in ascending order."""
        return tuple(by_shard(self.lanes))

    @classmethod
    def parse(cls, text: str) -> WriteId:
        """Parse an id. Raises `ValueError` for anything but the one printed form of an id."""
        if not _write_id.fullmatch(text):
            raise ValueError("not a write id")
        batch, index, places = text.split("-")
        write = cls(
            UUID(hex=batch), int(index, 16), tuple(lane for place in places.split(".") for lane in _parsed(place))
        )
        if str(write) != text or list(write.lanes) != sorted(set(write.lanes)):
            raise ValueError("not a write id as it was printed")
        return write


def _printed(lanes: list[Lane]) -> str:
    mask = sum(1 << lane.place for lane in lanes)
    return f"{lanes[0].shard}" if mask == 1 else f"{lanes[0].shard}:{mask:x}"


def _parsed(place: str) -> list[Lane]:
    shard, _, mask = place.partition(":")
    bits = int(mask or "1", 16)
    lanes = (Lane(int(shard), number, queue) for number in range(MOST) for queue in (EXCESS, FRESH))
    return [lane for lane in lanes if bits >> lane.place & 1]
