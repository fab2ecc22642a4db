"""The digest of a table, such as that of counters: a hash tree over the slots, and the comparison of two trees and their
rows. Pure.

    root (SHA-256 of the ranges) ─ 16 ranges (SHA-256 of their leaves) ─ 64 leaves each, one per slot

A leaf has the number of its rows, the sum of their versions, and the XOR of their SHA-256 (of a counter: "key value
version"), which does not depend on their order (Bellare and Micciancio, 1997). The tree is Merkle's (1987): equal roots mean equal rows.

A range is a partition of the table. A lane is a whole number of ranges, so a lane's leaves can be read and compared
separately.

Invariant: every change by Tally raises a counter's version, and Tally never deletes a counter, so the sum of a slot's
versions grows with every change. A slot that changed without such growth was not changed by Tally (`altered`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from heapq import merge
from itertools import groupby
from typing import Any, NamedTuple

from sharding.lanes import PARTITIONS, slots_of
from sharding.slots import SLOTS

RANGES = PARTITIONS
SLOTS_EACH = SLOTS // RANGES

Row = tuple[Any, ...]  # key, values


class Leaf(NamedTuple):
    """A slot: how many rows it has, the sum of their versions, the XOR of their hashes (32 bytes)."""

    rows: int
    versions: int
    hash: bytes

    def encoded(self) -> str:
        """The text that the range's digest hashes; each leaf has exactly one encoding."""
        return f"{self.rows} {self.versions} {self.hash.hex()}"

    @classmethod
    def decoded(cls, text: str) -> Leaf:
        """Parse an encoded leaf."""
        rows, versions, hashed = text.split()
        return cls(int(rows), int(versions), bytes.fromhex(hashed))


EMPTY = Leaf(0, 0, bytes(32))


def ranges_of(lane: int, lanes: int) -> range:
    """The ranges of a lane in a shard with `lanes` lanes."""
    slots = slots_of(lane, lanes)
    return range(slots.start // SLOTS_EACH, slots.stop // SLOTS_EACH)


@dataclass(frozen=True, slots=True)
class Tree:
    """`leaves` has one for each of the 1024 slots."""

    leaves: tuple[Leaf, ...]
    root: bytes

    @classmethod
    def of(cls, leaves: Mapping[int, Leaf]) -> Tree:
        """Build a tree. `leaves` may leave out slots without rows."""
        all_leaves = tuple(leaves.get(slot, EMPTY) for slot in range(SLOTS))
        parts = (all_leaves[first : first + SLOTS_EACH] for first in range(0, SLOTS, SLOTS_EACH))
        ranges = (sha256("\n".join(leaf.encoded() for leaf in part).encode()).digest() for part in parts)
        return cls(all_leaves, sha256(b"".join(ranges)).digest())

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(leaf.rows for leaf in self.leaves)


class Difference(NamedTuple):
    """A key that differs between two nodes: its values on each, of a counter (value, version); None where it has no
    row."""

    key: str
    primary: tuple[Any, ...] | None
    replica: tuple[Any, ...] | None
    table: str = "counter"


def differing(one: Mapping[int, Leaf], other: Mapping[int, Leaf]) -> list[int]:
    """Slots whose rows differ, in order. The arguments may leave out slots without rows."""
    return sorted(slot for slot in one.keys() | other.keys() if one.get(slot, EMPTY) != other.get(slot, EMPTY))


def altered(before: Sequence[Leaf], now: Sequence[Leaf]) -> list[int]:
    """Slots of one server that changed as Tally never changes them: rows vanished, or the sum of versions did not
    grow."""
    return [
        slot
        for slot, (old, new) in enumerate(zip(before, now, strict=True))
        if old != new and (new.rows < old.rows or new.versions <= old.versions)
    ]


def differences(primary: Iterable[Row], replica: Iterable[Row], table: str = "counter") -> Iterator[Difference]:
    """Yield the keys of a table that differ, in order. Both sides must be sorted by key."""
    for key, group in groupby(merge(_marked(primary, 0), _marked(replica, 1), key=_key), key=_key):
        found: tuple[list[tuple[Any, ...]], ...] = ([], [])
        for side, _, *values in group:
            found[side].append(tuple(values))
        if found[0] != found[1]:
            one, other = (rows[0] if rows else None for rows in found)
            yield Difference(key, one, other, table)


def _marked(rows: Iterable[Row], side: int) -> Iterator[Row]:
    return ((side, *row) for row in rows)


def _key(row: Row) -> str:
    key: str = row[1]
    return key
