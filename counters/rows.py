"""Rows of the table `counter` by key: the common part of all queries for counters. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sharding.slots import slots_of

# Follows FROM, with the arguments of `wanted`. One index probe per key, in the partition of its slot.
WANTED = "counter JOIN unnest(%s::text[], %s::smallint[]) AS wanted (key, slot) USING (key, slot)"


def wanted(keys: Sequence[str]) -> tuple[Sequence[str], list[int]]:
    """The arguments of `WANTED`."""
    return keys, slots_of(keys)
