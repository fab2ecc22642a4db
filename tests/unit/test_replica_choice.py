"""Strategies of choosing a replica: what each does with servers of which one is the primary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharding.replica_choice import KNOWN_SECONDS, MARGIN_SECONDS, LeastLag, Name, RoundRobin, Server, Strategy, named

PRIMARY, *REPLICAS = SERVERS = [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def connect(strategy: Strategy, servers: Sequence[Server] = SERVERS, down: Sequence[Server] = ()) -> Server:
    """What libpq does: the first of the order that runs and is no primary."""
    order = strategy.order(servers)
    server = next(one for one in order if one != PRIMARY and one not in down)
    strategy.connected(order, server)
    return server


@pytest.mark.parametrize("name", get_args(Name))
@given(servers=st.lists(st.sampled_from(SERVERS), unique=True))
def test_an_order_has_each_server_once(name: Name, servers: list[Server]) -> None:
    strategy = named(name, Clock())
    for _ in range(3):
        assert sorted(strategy.order(servers)) == sorted(servers)


def test_random_reaches_every_replica() -> None:
    found = Counter(connect(named("random", Clock())) for _ in range(300))
    assert set(found) == set(REPLICAS)
    assert min(found.values()) > 50


def test_round_robin_gives_each_replica_as_many_although_the_primary_is_passed_over() -> None:
    strategy = RoundRobin()
    found = [connect(strategy) for _ in range(30)]
    assert Counter(found) == dict.fromkeys(REPLICAS, 10)
    assert all(found[n] != found[n + 1] for n in range(29))


def test_round_robin_does_not_begin_with_the_primary_each_time() -> None:
    strategy, first = RoundRobin(), Counter[Server]()
    for _ in range(40):
        first[strategy.order(SERVERS)[0]] += 1
        connect(strategy)
    assert first[PRIMARY] <= 40 / len(REPLICAS) + 1


def test_round_robin_goes_on_without_a_server_that_is_down() -> None:
    strategy = RoundRobin()
    assert Counter(connect(strategy, down=[REPLICAS[0]]) for _ in range(20)) == dict.fromkeys(REPLICAS[1:], 10)
    assert connect(strategy, [PRIMARY, *REPLICAS[:1]]) == REPLICAS[0]
    strategy.connected([REPLICAS[1]], REPLICAS[0])  # a server of no order: libpq was given others


def test_least_lag_sees_each_server_once_and_then_takes_the_least() -> None:
    strategy, lags = LeastLag(Clock()), dict(zip(REPLICAS, (0.9, 0.2, 0.5), strict=True))
    first = [connect(strategy) for _ in range(4)]
    assert set(first) == set(REPLICAS)
    for server, lag in lags.items():
        strategy.seen(server, lag)
    assert {connect(strategy) for _ in range(20)} == {REPLICAS[1]}
    assert {connect(strategy, down=[REPLICAS[1]]) for _ in range(20)} == {REPLICAS[2]}
    strategy.seen(REPLICAS[1], 3.0)
    assert connect(strategy) == REPLICAS[2]


def test_least_lag_gives_up_a_connection_for_one_that_is_clearly_less_behind() -> None:
    strategy = LeastLag(Clock())
    strategy.seen(PRIMARY, float("inf"))
    for server, lag in zip(REPLICAS, (0.0, MARGIN_SECONDS / 2, MARGIN_SECONDS * 2), strict=True):
        strategy.seen(server, lag)
    assert [strategy.keeps(server, SERVERS) for server in REPLICAS] == [True, True, False]
    assert strategy.keeps(REPLICAS[2], [PRIMARY, REPLICAS[2]]), "the others are left out"


def test_least_lag_asks_again_what_it_has_not_seen_for_a_while_with_one_connection() -> None:
    clock = Clock()
    strategy = LeastLag(clock)
    strategy.seen(PRIMARY, float("inf"))
    for server, lag in zip(REPLICAS, (0.0, 0.5, 0.5), strict=True):
        strategy.seen(server, lag)
    clock.now += KNOWN_SECONDS
    for server in (PRIMARY, *REPLICAS[:2]):
        strategy.seen(server, 0.0)
    assert not strategy.keeps(REPLICAS[0], SERVERS)
    assert connect(strategy) == REPLICAS[2]
    assert strategy.keeps(REPLICAS[0], SERVERS), "one connection is on its way"
    assert connect(strategy) != REPLICAS[2]


@pytest.mark.parametrize("name", ["random", "round_robin"])
def test_the_others_keep_what_they_have(name: Name) -> None:
    assert named(name, Clock()).keeps(REPLICAS[0], SERVERS)
