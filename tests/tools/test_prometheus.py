"""A real Prometheus on the cluster, under a little load: panels and alerts find the series that they ask for."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser as promql
import pytest
import yaml

from cluster import layout, monitoring, targets
from cluster.layout import MONITORING_USER, Directory
from monitoring.dashboards import DASHBOARDS
from tests.support.brokers import free_ports
from tests.support.cluster import Cluster, eventually
from tests.support.commands import ROOT

FAILURE = "its labels are known when the first of its kind happens"
NO_EXPORTER = "the nginx of the wheel is built without stub_status"
MAY_HAVE_NO_SERIES = {
    "nginx_connections_active": NO_EXPORTER,
    "nginx_http_requests_total": NO_EXPORTER,
    "tally_admin_logins_refused_total": FAILURE,
    "tally_apply_retries_total": FAILURE,
    "tally_batches_deferred_total": FAILURE,
    "tally_batches_undispatched_total": FAILURE,
    "tally_component_failures_total": FAILURE,
    "tally_inconsistent_rows": "the shards were not reconciled yet",
    "tally_increments_spilled_total": FAILURE,
    "tally_keys_limited_total": FAILURE,
    "tally_lane_worker": "no lane is applied at that moment",
    "tally_limited_total": FAILURE,
    "tally_replica_attempts": "every replica follows",
    "tally_replica_reinitialised_total": FAILURE,
    "tally_wal_archive_failing": "the cluster of the tests has no archive",
    "tally_wal_unarchived_files": "the cluster of the tests has no archive",
    "tally_writes_refused_total": FAILURE,
}  # metrics, and why a healthy cluster may lack them


@pytest.fixture
def prometheus(cluster: Cluster, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a Prometheus as `--monitoring` starts it, that scrapes the cluster every second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not on PATH (Debian: prometheus)")
    directory, port = Directory(tmp_path), free_ports(1)[0]
    secrets = layout.load_secrets(Directory(cluster.dir))
    directory.monitoring.mkdir()
    monitoring.write_prometheus(directory, secrets)
    for path in (directory.monitoring / name for name in monitoring.RULES):
        path.write_text(path.read_text().replace("_interval: 15s", "_interval: 1s"))
    targets.write(directory, cluster.status()["processes"])
    command = monitoring.prometheus(Path(program), directory, port)
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        login = (MONITORING_USER, secrets["prometheus"])
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", timeout=10, auth=login) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)


def compared(expression: Any) -> list[str]:
    """What an alert compares, without the comparison and the number: each side that has series."""
    match expression:
        case promql.ParenExpr():
            return compared(expression.expr)
        case promql.NumberLiteral():
            return []
        case promql.BinaryExpr() if str(expression.op) in {"==", "!=", "<", ">", "<=", ">=", "or", "and", "unless"}:
            return [*compared(expression.lhs), *compared(expression.rhs)]
        case promql.Call() if expression.func.name == "absent":
            return [argument.prettify() for argument in expression.args]
        case _:
            return [str(expression.prettify())]


def sides_of_alerts() -> set[str]:
    groups = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())["groups"]
    return {side for group in groups for rule in group["rules"] for side in compared(promql.parse(rule["expr"]))}


def series(prometheus: httpx.Client, expression: str) -> list[Any]:
    answer = prometheus.get("/query", params={"query": expression}).raise_for_status().json()
    found: list[Any] = answer["data"]["result"]
    return found


def asked() -> set[str]:
    """What panels show and alerts compare."""
    panels = (panel for panels in DASHBOARDS.values() for panel in panels)
    return {panel.expression.replace("$__rate_interval", "30s") for panel in panels} | sides_of_alerts()


def metrics_of(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:tally|patroni|nginx)_\w+", expression))


def test_each_metric_that_may_have_no_series_is_asked_for() -> None:
    assert MAY_HAVE_NO_SERIES.keys() <= {metric for expression in asked() for metric in metrics_of(expression)}


def test_an_alert_is_what_it_compares() -> None:
    expression = (
        "max by (a) (x_failing) > 0 or (max(x_copies) > 0) < max(x_wanted) or absent(x_entries) or time() - x > 9"
    )
    assert compared(promql.parse(expression)) == [
        *("max by (a) (x_failing)", "max(x_copies)", "max(x_wanted)", "x_entries", "time() - x")
    ]


@pytest.mark.usefixtures("whole")
def test_every_panel_and_alert_has_series_and_every_target_is_up(
    prometheus: httpx.Client, client: httpx.Client, key: str
) -> None:
    expressions = sorted(one for one in asked() if not metrics_of(one) & MAY_HAVE_NO_SERIES.keys())

    def without() -> list[str]:
        client.post(f"/v1/counters/{key}/increments", json={"delta": 1}).raise_for_status()
        client.get(f"/v1/counters/{key}").raise_for_status()
        client.get(f"/v1/counters/{key}:unknown").raise_for_status()
        client.put(f"/v1/likes/test/{key}/users/any").raise_for_status()
        client.get("/v1/nothing")
        return [one for one in expressions if not series(prometheus, one)]

    try:
        eventually(lambda: series(prometheus, "up") and not without(), seconds=60, pause=1)
    except AssertionError:
        assert without() == []
        raise
    assert series(prometheus, "up == 0") == []
    assert httpx.get(f"{prometheus.base_url}/query", params={"query": "up"}).status_code == 401
    span = {"start": time.time() - 300, "end": time.time()}
    for metric, label in (("tally_request_seconds_bucket", "request_id"), ("tally_apply_seconds_bucket", "batch")):
        found = prometheus.get("/query_exemplars", params={"query": metric, **span}).raise_for_status().json()["data"]
        assert {name for one in found for exemplar in one["exemplars"] for name in exemplar["labels"]} == {label}
    rules = [rule for group in prometheus.get("/rules").json()["data"]["groups"] for rule in group["rules"]]
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule["health"] != "ok"] == []
