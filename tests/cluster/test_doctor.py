"""`manage.py doctor` of a running cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.cluster import Cluster, eventually

pytestmark = pytest.mark.usefixtures("found_whole")
HELD = "breaker shard-1-replica"


def findings(cluster: Cluster) -> tuple[dict[str, Any], int]:
    """What it finds, by subject, and its exit status. Other tests may have left dead letters and the like."""
    done = cluster.manage("doctor", "--json", check=False)
    return {one["subject"]: one for one in json.loads(done.stdout)["findings"]}, done.returncode


def test_it_finds_what_is_wrong_and_says_what_mends_it(cluster: Cluster) -> None:
    health = cluster.client().get("/health").json()
    components = {one["name"] for one in health["components"]} | {"everything", "topology", "status"}
    before, status = eventually(lambda: (seen := findings(cluster)) and not components & seen[0].keys() and seen, 60)
    assert status == (1 if before else 0)
    assert HELD not in before
    cluster.manage("breakers", "open", "shard-1-replica", "--reason", "a test")
    try:
        found, status = findings(cluster)
        page = cluster.manage("doctor", check=False).stdout
    finally:
        cluster.manage("breakers", "close", "shard-1-replica")
    assert status == 1
    assert found[HELD]["severity"] == "warning"
    assert "manage.py breakers close shard-1-replica" in found[HELD]["remedy"]
    assert f"warning {HELD}" in page
