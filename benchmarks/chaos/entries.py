"""Acknowledged writes, in a file: those of an hour are too many for memory."""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

LENGTH_BYTES = 4  # before each entry


class Entry(NamedTuple):
    """An acknowledged write. `keys` maps each key to its delta, or to None for a set. `sent` and `answered` are seconds of the
    monotonic clock."""

    kind: str
    id: str
    sent: float
    answered: float
    attempts: int
    status: int
    keys: Mapping[str, int | None]


class Entries:
    """The entries of one client: appended by its thread, and read in that order, as often as wanted, when it has ended."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="tally-chaos-")  # noqa: SIM115 - gone with this object
        self._count = 0

    def append(self, entry: Entry) -> None:
        encoded = msgspec.msgpack.encode(entry)
        self._file.write(len(encoded).to_bytes(LENGTH_BYTES) + encoded)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        if not self._count:
            return
        self._file.flush()
        decoder = msgspec.msgpack.Decoder(Entry)
        with mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            start = 0
            while start < len(data):
                first = start + LENGTH_BYTES
                start = first + int.from_bytes(data[start:first])
                yield decoder.decode(data[first:start])
