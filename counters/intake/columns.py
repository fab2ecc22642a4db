"""Folded increments in pyarrow arrays, split by lane and encoded. The only Python object per key is the bytes to hash.

Needs pyarrow (the extra `arrow`). A segment decodes to what `batch.encode_segment` encodes
(tests/cluster/test_bulk_bodies.py).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from counters import batch
from counters.keys import MAX_LENGTH
from sharding.lanes import Lane
from sharding.slots import slots_of_utf8
from sharding.topology import Topology

# msgpack's header of a string, by its length in bytes.
_HEADERS = pa.array([bytes((0xA0 | n,)) if n < 32 else bytes((0xD9, n)) for n in range(MAX_LENGTH + 1)], pa.binary())


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """`deltas[i]` (pyarrow int64) is added to `keys[i]` (pyarrow string). Keys are unique and valid; nothing is
    null."""

    keys: Any
    deltas: Any

    def __len__(self) -> int:
        return len(self.keys)

    def items(self) -> Iterator[tuple[str, int]]:
        """Key and delta pairs, like `dict.items`."""
        return zip(self.keys.to_pylist(), self.deltas.to_pylist(), strict=True)

    def segments(self, in_force: Topology) -> dict[Lane, msgspec.Raw]:
        """The encoded increments by lane."""
        keys = self.keys.cast(pa.binary())
        slots = _uint16(slots_of_utf8(keys.to_pylist()))
        routes = _uint16(in_force.routes).take(slots)
        order = pc.sort_indices(routes)
        keys = keys.take(order)
        encoded = pc.binary_join_element_wise(_HEADERS.take(pc.binary_length(keys)), keys, b"")
        places, content = (memoryview(buffer) for buffer in encoded.buffers()[1:])
        places, deltas = places.cast("i"), self.deltas.take(order)
        counts = {one["values"]: one["counts"] for one in pc.value_counts(routes).to_pylist()}
        found: dict[Lane, msgspec.Raw] = {}
        end = 0
        for route in sorted(counts):
            start, end = end, end + counts[route]
            part = content[places[start] : places[end]]
            found[in_force.lanes[route]] = batch.encode_columns(counts[route], part, _integers(deltas, start, end))
        return found


def _uint16(values: Any) -> Any:
    """A uint16 array made from a buffer: `pa.array` would inspect each value."""
    numbers = array("H", values)
    return pa.Array.from_buffers(pa.uint16(), len(numbers), [None, pa.py_buffer(numbers)])


def _integers(values: Any, start: int, end: int) -> list[int]:
    """Elements `start` to `end` of an int64 array."""
    return memoryview(values.buffers()[1]).cast("q")[values.offset + start : values.offset + end].tolist()
