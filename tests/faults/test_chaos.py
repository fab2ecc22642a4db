"""A short round of the bench (`make chaos`): a worker killed in a shift, messages doubled and lost, then every key."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from benchmarks.chaos import broken, kills, messages, report
from benchmarks.chaos.__main__ import run_trial
from benchmarks.chaos.fault import Fault
from benchmarks.chaos.sampler import Copies, longest_lack
from benchmarks.chaos.subject import Subject
from tests.support.cluster import Cluster

FAULTS = [  # test_faults kills each role by itself
    Fault("kill flower", partial(kills.kill_role, "flower")),
    Fault("kill worker in a shift", kills.kill_in_a_shift),
    *messages.all_messages(),
]


@pytest.mark.usefixtures("whole")
def test_a_short_round_is_exact(cluster: Cluster) -> None:
    outcome = run_trial(Subject(cluster.dir), FAULTS, seed=7, minutes=0, count=len(FAULTS))
    assert outcome.verdict.findings == []
    assert sum(not one.skipped for one in outcome.trial.struck) == len(FAULTS)
    assert outcome.verdict.figures["writes acknowledged"] > 200
    assert outcome.verdict.figures["copies that are equal and stream"] == 4


def test_the_longest_time_without_a_copy_is_told() -> None:
    seen = [Copies(float(at), least) for at, least in enumerate([2, 1, 2, 1, 0, 1, 1, 2, 2, 1])]
    assert longest_lack(seen, 2) == 3
    assert longest_lack(seen, 0) == longest_lack([], 2) == 0


@pytest.mark.parametrize("name", broken.BREAKS)
def test_a_broken_build_can_be_made_of_this_code(name: str, tmp_path: Path) -> None:
    one = broken.BREAKS[name]
    for path in one.changes:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(report.ROOT / path, tmp_path / path)
    broken.apply(one, tmp_path)
    assert all((tmp_path / path).read_text() != (report.ROOT / path).read_text() for path in one.changes)
