"""`manage.py doctor` of a running cluster."""

from __future__ import annotations

import json

import pytest

from tests.support.cluster import Cluster, eventually

pytestmark = pytest.mark.usefixtures("found_whole")


def test_it_finds_what_is_wrong_and_nothing_where_all_is_well(cluster: Cluster) -> None:
    done = eventually(lambda: (said := cluster.manage("doctor", check=False)).returncode == 0 and said, 60)
    assert done.stdout.startswith("All is well:"), done.stdout
    cluster.manage("breakers", "open", "shard-1-replica", "--reason", "a test")
    try:
        done = cluster.manage("doctor", check=False)
        told = json.loads(cluster.manage("doctor", "--json", check=False).stdout)
    finally:
        cluster.manage("breakers", "close", "shard-1-replica")
    assert done.returncode == 1
    assert "warning breaker shard-1-replica" in done.stdout
    assert "manage.py breakers close shard-1-replica" in done.stdout
    assert [one["subject"] for one in told["findings"] if one["severity"] == "warning"] == ["breaker shard-1-replica"]
