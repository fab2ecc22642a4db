"""Key → slot → shard: stable, even, and moving as little as can be."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding import ring
from sharding.slots import SLOTS, slot_of

# 99.99 % of χ² with 1023 degrees of freedom (Wilson-Hilferty).
STABLE = [579, 184, 666, 950, 455, 934]

CHI_SQUARE_BOUND = 1023 * (1 - 2 / (9 * 1023) + 3.719 * (2 / (9 * 1023)) ** 0.5) ** 3


def test_slots_are_stable() -> None:
    """These may never change: they say where every counter of every installation is."""
    assert [slot_of(key) for key in ("a", "likes:post:1", "word:the", "~", "user@example.org", "x" * 200)] == STABLE


@pytest.mark.parametrize(
    "keys",
    [
        [f"user:{n}:likes" for n in range(200_000)],
        [f"{n:032x}" for n in range(0, 200_000 * 7919, 7919)],
        [
            a + b + c + d
            for a in string.ascii_lowercase
            for b in string.ascii_lowercase
            for c in string.ascii_lowercase
            for d in "aeiouxyz"
        ],
    ],
    ids=["numbered", "hex", "letters"],
)
def test_slots_are_even(keys: list[str]) -> None:
    counts = [0] * SLOTS
    for key in keys:
        counts[slot_of(key)] += 1
    expected = len(keys) / SLOTS
    assert sum((count - expected) ** 2 / expected for count in counts) < CHI_SQUARE_BOUND


@given(st.text(alphabet=string.ascii_letters + string.digits + "._:~@-", min_size=1, max_size=200))
def test_slot_is_in_range(key: str) -> None:
    assert 0 <= slot_of(key) < SLOTS
    assert slot_of(key) == slot_of(key)


@pytest.mark.parametrize("shards", range(1, 17))
def test_adding_a_shard_moves_little_and_only_to_it(shards: int) -> None:
    before = ring.plan(shards)
    after = ring.grow(before, shards + 1)
    moved = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert {new for _, new in moved} == {shards}
    assert len(moved) <= SLOTS / (shards + 1) * 1.1


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 8, 13, 32])
def test_shares_differ_by_one_slot_at_most(shards: int) -> None:
    owners = ring.plan(shards)
    shares = [owners.count(shard) for shard in range(shards)]
    assert max(shares) - min(shares) <= 1


def test_growing_by_several_moves_only_to_the_new() -> None:
    before = ring.plan(2)
    after = ring.grow(before, 5)
    assert all(new >= 2 for old, new in zip(before, after, strict=True) if old != new)


@pytest.mark.parametrize("shards", [0, -1, 1025])
def test_impossible_plans_are_refused(shards: int) -> None:
    with pytest.raises(ValueError, match="shards must be"):
        ring.plan(shards)
