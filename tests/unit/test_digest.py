"""The digest tree and what is read from two of them: pure."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counters.reconciliation.cache_check import judge
from replication.digest import (
    EMPTY,
    RANGES,
    SLOTS_EACH,
    Difference,
    Leaf,
    Row,
    Tree,
    altered,
    differences,
    differing,
    ranges_of,
)
from sharding import lanes
from sharding.slots import SLOTS, slot_of

values = st.tuples(st.integers(-9, 9), st.integers(1, 20))
tables = st.dictionaries(st.text("abc:", min_size=1, max_size=4), values, max_size=30)


def leaves(table: dict[str, tuple[int, int]]) -> dict[int, Leaf]:
    """What slots.sql computes."""
    found: dict[int, Leaf] = {}
    for key, (value, version) in table.items():
        old = found.get(slot_of(key), EMPTY)
        hashed = int.from_bytes(sha256(f"{key} {value} {version}".encode()).digest(), "big") ^ int.from_bytes(
            old.hash, "big"
        )
        found[slot_of(key)] = Leaf(old.rows + 1, old.versions + version, hashed.to_bytes(32, "big"))
    return found


def rows(table: dict[str, tuple[int, int]]) -> list[Row]:
    return sorted((key, *row) for key, row in table.items())


@given(tables, tables)
def test_leaves_tell_exactly_the_slots_of_the_keys_that_differ(
    one: dict[str, tuple[int, int]], other: dict[str, tuple[int, int]]
) -> None:
    keys = {key for key in {*one, *other} if one.get(key) != other.get(key)}
    first, second = leaves(one), leaves(other)
    assert differing(first, second) == sorted({slot_of(key) for key in keys})
    assert (Tree.of(first).root == Tree.of(second).root) == (one == other)
    assert Tree.of(first).rows == len(one)


@pytest.mark.parametrize("count", lanes.COUNTS)
def test_the_ranges_of_a_lane_are_its_slots(count: int) -> None:
    assert [part for lane in range(count) for part in ranges_of(lane, count)] == list(range(RANGES))
    for lane in range(count):
        slots = [part * SLOTS_EACH + place for part in ranges_of(lane, count) for place in range(SLOTS_EACH)]
        assert slots == list(lanes.slots_of(lane, count))


@given(tables, tables)
def test_differences_name_each_key_with_both_sides(
    one: dict[str, tuple[int, int]], other: dict[str, tuple[int, int]]
) -> None:
    keys = sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
    assert list(differences(rows(one), rows(other))) == [Difference(key, one.get(key), other.get(key)) for key in keys]


@given(tables, st.data())
def test_what_tally_does_is_not_altered_and_what_it_never_does_is(
    table: dict[str, tuple[int, int]], data: st.DataObject
) -> None:
    before = Tree.of(leaves(table)).leaves
    key, value = data.draw(st.sampled_from(sorted({*table, "new"}))), data.draw(st.integers(-9, 9))
    old_value, version = table.get(key, (0, 0))
    grown = Tree.of(leaves({**table, key: (value, version + data.draw(st.integers(1, 9)))})).leaves
    assert altered(before, grown) == []
    assert altered(before, before) == []
    if version:
        by_hand = Tree.of(leaves({**table, key: (old_value + 1, version)})).leaves
        gone = Tree.of(leaves({other: row for other, row in table.items() if other != key})).leaves
        assert altered(before, by_hand) == altered(before, gone) == [slot_of(key)]


@given(st.builds(Leaf, st.integers(0, 2**40), st.integers(0, 2**90), st.binary(min_size=32, max_size=32)))
def test_a_leaf_is_remembered_as_it_was(leaf: Leaf) -> None:
    assert Leaf.decoded(leaf.encoded()) == leaf


def test_every_slot_has_its_place_in_the_tree() -> None:
    slots = (0, 63, 64, SLOTS - 1)
    trees = [Tree.of({slot: Leaf(1, 1, b"\1" * 32)}) for slot in slots]
    assert len({Tree.of({}).root, *(tree.root for tree in trees)}) == 1 + len(slots)
    assert [tree.leaves.index(Leaf(1, 1, b"\1" * 32)) for tree in trees] == list(slots)


def test_judgement_of_cached_values() -> None:
    assert judge(b"5 7 0", 5, 7) == "right"
    assert judge(b"-5 7 0", -5, 7) == "right"
    assert judge(b"0 0 0", 0, 0) == "right"
    assert judge(b"5 6 0", 6, 7) == "stale"
    assert judge(b"6 7 0", 5, 7) == "wrong"
    assert judge(b"5 8 0", 5, 7) == "wrong"
    for garbage in (b"", b"x", b"5", b"5 7", b"5 x 0", b"5 -1 0", b"5 7 x", b"5 7 0 0"):
        assert judge(garbage, 5, 7) == "wrong"
