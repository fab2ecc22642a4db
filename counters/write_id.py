"""The id of a write, as clients see it: which batch, which write in it, which shards. Pure.

It carries all that is needed to find the write again, so that no table of writes has to be kept.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

WRITE_ID_PATTERN = r"[0-9a-f]{32}-[0-9a-f]{1,8}-[0-9]{1,2}(\.[0-9]{1,2}){0,63}"
_write_id = re.compile(WRITE_ID_PATTERN)


@dataclass(frozen=True, slots=True)
class WriteId:
    """`batch` is the id that its batches (one a shard) share, `index` the write's place in them, `shards` in rising order."""

    batch: UUID
    index: int
    shards: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.batch.hex}-{self.index:x}-{'.'.join(map(str, self.shards))}"

    @classmethod
    def parse(cls, text: str) -> WriteId:
        """The id that was printed so: a write has one id, so nothing else is taken for it. Raises `ValueError`."""
        if not _write_id.fullmatch(text):
            raise ValueError("not a write id")
        batch, index, shards = text.split("-")
        write = cls(UUID(hex=batch), int(index, 16), tuple(map(int, shards.split("."))))
        if str(write) != text or list(write.shards) != sorted(set(write.shards)):
            raise ValueError("not a write id as it was printed")
        return write
