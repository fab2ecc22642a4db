"""A short round of the bench (`make chaos`): two kills of each part that a write passes, under the full mix, and then every key."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from benchmarks.chaos import kills
from benchmarks.chaos.__main__ import run_trial
from benchmarks.chaos.fault import Fault
from benchmarks.chaos.subject import Subject
from tests.conftest import Cluster

FAULTS = [
    Fault("kill worker", partial(kills.kill_role, "worker"), weight=2),
    Fault("kill api", partial(kills.kill_role, "api"), weight=2),
    Fault("kill redis-journal", partial(kills.kill_role, "redis-journal"), weight=2),
    Fault("kill primary", kills.kill_primary, weight=2),
]


@pytest.fixture(autouse=True)
def whole(cluster: Cluster) -> Iterator[None]:
    """The round finds every component up, and leaves it so."""
    cluster.wait_until_whole()
    yield
    cluster.wait_until_whole()


def test_a_short_round_is_exact(cluster: Cluster) -> None:
    outcome = run_trial(Subject(cluster.dir), FAULTS, seed=7, minutes=0, count=8)
    assert outcome.verdict.findings == []
    assert sum(not one.skipped for one in outcome.trial.struck) == 8
    assert outcome.verdict.figures["writes acknowledged"] > 200
