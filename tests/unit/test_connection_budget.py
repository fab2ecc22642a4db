"""The budget of connections: what fits, what does not, and that its advice helps."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sharding import connection_budget
from sharding.connection_budget import Fleet, TooManyConnections

USUAL = Fleet(api=2, workers=(1, 1), spill_workers=1, pool_size=10, worker_concurrency=8, max_connections=200)
counts = st.integers(0, 32)
fleets = st.builds(
    Fleet,
    api=st.integers(1, 32),
    workers=st.lists(counts, min_size=1, max_size=8),
    spill_workers=counts,
    pool_size=st.integers(1, 10),
    worker_concurrency=st.integers(1, 64),
    max_connections=st.integers(20, 2000),
)


def fits(fleet: Fleet) -> bool:
    try:
        connection_budget.check(fleet)
    except TooManyConnections:
        return False
    return True


def test_the_local_cluster_fits_with_room_to_grow() -> None:
    budget = connection_budget.worst(USUAL)
    assert (budget.shard, budget.api, budget.limit) == (0, 68, 194)
    assert budget.most == 68 + 10 + 30 + 8
    assert fits(replace(USUAL, api=4, workers=(2, 2)))


def test_the_primary_with_the_control_database_has_the_least_room() -> None:
    assert connection_budget.of(USUAL, 1).most < connection_budget.of(USUAL, 0).most
    assert connection_budget.worst(replace(USUAL, workers=(0, 9))).shard == 1


def test_what_does_not_fit_is_a_sentence_that_says_what_to_change() -> None:
    with pytest.raises(TooManyConnections) as refused:
        connection_budget.check(replace(USUAL, api=8))
    said = str(refused.value)
    assert "8 API processes and 1 worker could open 320 connections to the primary of shard 0, which takes 194" in said
    assert "4 API processes at most, or TALLY_DATABASE_POOL_SIZE=4, or raise max_connections" in said
    assert fits(replace(USUAL, api=4))
    assert not fits(replace(USUAL, api=5))
    assert fits(replace(USUAL, api=8, pool_size=4))
    assert not fits(replace(USUAL, api=8, pool_size=5))


def test_too_many_workers_are_told_as_such() -> None:
    many = replace(USUAL, workers=(20, 1))
    with pytest.raises(TooManyConnections, match="fewer workers, or TALLY_WORKER_CONCURRENCY=3, or raise max_conn"):
        connection_budget.check(many)
    assert fits(replace(many, worker_concurrency=3))
    assert not fits(replace(many, worker_concurrency=4))
    with pytest.raises(TooManyConnections, match="fewer workers, or raise max_connections"):
        connection_budget.check(replace(USUAL, workers=(99, 1)))


@given(fleets)
def test_fewer_of_anything_never_needs_more(fleet: Fleet) -> None:
    most = connection_budget.worst(fleet).most
    for less in (
        replace(fleet, api=max(1, fleet.api - 1)),
        replace(fleet, spill_workers=max(0, fleet.spill_workers - 1)),
        replace(fleet, workers=[max(0, count - 1) for count in fleet.workers]),
        replace(fleet, pool_size=max(1, fleet.pool_size - 1)),
    ):
        assert connection_budget.worst(less).most <= most


@given(fleets)
def test_what_it_advises_fits(fleet: Fleet) -> None:
    """Unless another shard has as little room."""
    fleet = replace(fleet, workers=fleet.workers[:1])
    try:
        connection_budget.check(fleet)
    except TooManyConnections as refused:
        if found := re.search(r"POOL_SIZE=(\d+)", str(refused)):
            assert fits(replace(fleet, pool_size=int(found[1])))
        if found := re.search(r"CONCURRENCY=(\d+)", str(refused)):
            assert fits(replace(fleet, worker_concurrency=int(found[1])))
        if found := re.search(r"(\d+) API process(es)? at most", str(refused)):
            assert fits(replace(fleet, api=int(found[1])))


@given(fleets)
def test_max_connections_that_a_refusal_lacks_makes_it_fit(fleet: Fleet) -> None:
    assume(not fits(fleet))
    budget = connection_budget.worst(fleet)
    lacking = budget.most - budget.limit
    assert not fits(replace(fleet, max_connections=fleet.max_connections + lacking - 1))
    assert fits(replace(fleet, max_connections=fleet.max_connections + lacking))
