"""Quorum arithmetic against its definition, over every small case. Pure."""

from __future__ import annotations

from itertools import product

import pytest

from replication.quorum import confirming, flushed

POSITIONS = range(4)


def by_definition(positions: tuple[int, ...], required: int) -> int | None:
    """The greatest position that at least `required` replicas have flushed, found by trying."""
    held = [at for at in POSITIONS if sum(position >= at for position in positions) >= required]
    return max(held, default=None) if len(positions) >= required else None


@pytest.mark.parametrize("replicas", range(6))
def test_every_small_case(replicas: int) -> None:
    for positions in product(POSITIONS, repeat=replicas):
        for required in range(1, replicas + 2):
            assert flushed(positions, required) == by_definition(positions, required), (positions, required)


@pytest.mark.parametrize("replicas", range(1, 6))
def test_a_flushed_position_survives_the_loss_of_all_but_one_of_those_required(replicas: int) -> None:
    """I3: take away any `required` - 1 replicas; one that is left has the position."""
    for positions in product(POSITIONS, repeat=replicas):
        for required in range(1, replicas + 1):
            at = flushed(positions, required)
            assert at is not None
            worst_left = sorted(positions)[: replicas - (required - 1)]  # the most advanced are lost
            assert max(worst_left) >= at


def test_it_takes_any_iterable_and_leaves_it_alone() -> None:
    positions = [5, 9, 7]
    assert flushed(iter(positions), 2) == flushed(positions, 2) == 7
    assert positions == [5, 9, 7]


@pytest.mark.parametrize(
    ("names", "number"),
    [
        ("", 0),
        ("*", 1),
        ("ANY 2 (a,b,c)", 2),
        ('ANY 1 ("shard-0-node-2")', 1),
        ('ANY 10 ("a-1",b)', 10),
        ('"shard-0-node-2"', 1),
    ],
)
def test_confirming_replicas_as_patroni_writes_them(names: str, number: int) -> None:
    assert confirming(names) == number
