"""A real Prometheus on the cluster, under a little load: panels and alerts find the series that they ask for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from monitoring.dashboards import DASHBOARDS
from monitoring.targets import targets
from tests.support.brokers import free_ports
from tests.support.cluster import Cluster, eventually
from tests.support.commands import ROOT

AFTER_A_FAILURE = {
    "tally_apply_retries_total",
    "tally_batches_deferred_total",
    "tally_batches_undispatched_total",
    "tally_component_failures_total",
    "tally_increments_spilled_total",
    "tally_keys_limited_total",
    "tally_limited_total",
    "tally_replica_reinitialised_total",
    "tally_writes_refused_total",
}  # counters whose labels are known when the first of their kind happens
WITH_AN_ARCHIVE = {"tally_wal_unarchived_files"}  # the cluster of the tests has none
WHILE_A_LANE_IS_APPLIED = {"tally_lane_worker"}

EXEMPLARS = "--enable-feature=exemplar-storage"


@pytest.fixture
def prometheus(cluster: Cluster, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a Prometheus that scrapes the cluster every second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not on PATH (Debian: prometheus)")
    home, port = tmp_path / "monitoring", free_ports(1)[0]
    home.mkdir()
    for name in ("prometheus.yml", "alerts.yml"):
        (home / name).write_text((ROOT / "monitoring" / name).read_text().replace("_interval: 15s", "_interval: 1s"))
    (home / "targets.json").write_text(json.dumps(targets(cluster.status())))
    shutil.copy(cluster.dir / "metrics-token", home)
    command = [program, f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data", EXEMPLARS]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)


def series(prometheus: httpx.Client, expression: str) -> list[Any]:
    answer = prometheus.get("/query", params={"query": expression}).raise_for_status().json()
    found: list[Any] = answer["data"]["result"]
    return found


def may_be_empty(expression: str) -> bool:
    return bool(
        (AFTER_A_FAILURE | WITH_AN_ARCHIVE | WHILE_A_LANE_IS_APPLIED) & set(re.findall(r"\btally_\w+", expression))
    )


@pytest.mark.usefixtures("whole")
def test_every_panel_has_series_and_every_target_is_up(
    prometheus: httpx.Client, client: httpx.Client, key: str
) -> None:
    expressions = {
        panel.expression.replace("$__rate_interval", "30s") for panels in DASHBOARDS.values() for panel in panels
    }

    def without() -> list[str]:
        client.post(f"/v1/counters/{key}/increments", json={"delta": 1}).raise_for_status()
        client.get(f"/v1/counters/{key}").raise_for_status()
        client.get(f"/v1/counters/{key}:unknown").raise_for_status()
        client.put(f"/v1/likes/test/{key}/users/any").raise_for_status()
        client.get("/v1/nothing")
        return [one for one in sorted(expressions) if not may_be_empty(one) and not series(prometheus, one)]

    try:
        eventually(lambda: series(prometheus, "up") and not without(), seconds=60, pause=1)
    except AssertionError:
        assert without() == []
        raise
    assert series(prometheus, "up == 0") == []
    span = {"start": time.time() - 300, "end": time.time()}
    for metric, label in (("tally_request_seconds_bucket", "request_id"), ("tally_apply_seconds_bucket", "batch")):
        found = prometheus.get("/query_exemplars", params={"query": metric, **span}).raise_for_status().json()["data"]
        assert {name for one in found for exemplar in one["exemplars"] for name in exemplar["labels"]} == {label}
    rules = [rule for group in prometheus.get("/rules").json()["data"]["groups"] for rule in group["rules"]]
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []
