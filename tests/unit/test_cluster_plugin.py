"""A run whose cluster breaks ends soon; one whose cluster recovers goes on.

Each test runs pytest with the plugin on a few tests of its own, with a stand-in for the cluster's look at itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import cluster_plugin
from tests.support.commands import ROOT

TESTS = """
import pytest
from tests.support.cluster_plugin import NotWhole

class Cluster:
    def wait_until_whole(self):
        print("looked at")
        if {broken}:
            raise NotWhole("redis-cache is down")

@pytest.fixture
def cluster():
    return Cluster()

def test_that_fails(cluster):
    raise ValueError

def test_of_nothing():
    pass

@pytest.mark.parametrize("number", range(50))
def test_of_the_cluster(cluster, number):
    pass
"""


def run(tmp_path: Path, *, broken: bool) -> str:
    (tmp_path / "test_it.py").write_text(TESTS.format(broken=broken))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.cluster_plugin", "-p", "no:cacheprovider", "-rP"]
    return subprocess.run(
        command, cwd=tmp_path, env=env, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout


def test_a_broken_cluster_ends_the_run(tmp_path: Path) -> None:
    said = run(tmp_path, broken=True)
    assert "1 failed, 1 passed, 1 error in" in said
    assert "the cluster of the run is broken: redis-cache is down" in said


def test_a_cluster_is_looked_at_once_after_a_failure(tmp_path: Path) -> None:
    said = run(tmp_path, broken=False)
    assert "1 failed, 51 passed in" in said
    assert said.count("looked at\n") == 1


def test_a_unit_test_that_uses_the_cluster_is_refused(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "unit" / "conftest.py").read_text())
    said = run(tmp_path, broken=False)
    assert "test_that_fails uses the cluster: it belongs into tests/cluster" in said
    assert "passed" not in said


@pytest.mark.parametrize(
    ("others", "others_first", "at"),
    [(0, True, 0), (2, True, 0), (5, True, 3), (5, False, 0)],
    ids=["at once", "few first", "many first", "many later"],
)
def test_the_cluster_starts_while_few_tests_of_other_clusters_are_left(
    others: int, others_first: bool, at: int
) -> None:
    def item(path: Path, *fixtures: str) -> Any:
        return SimpleNamespace(path=path, fixturenames=fixtures)

    before = [item(cluster_plugin.OTHER_CLUSTERS / "test_it.py")] * others
    own = [item(ROOT / "tests" / "cluster" / "test_it.py", "cluster")]
    items = [item(one.path, *one.fixturenames) for one in (before + own if others_first else own + before)]
    assert cluster_plugin.awaited(items) is items[at]
    assert cluster_plugin.awaited(items[: others if others_first else 0]) is None
