"""Prometheus' side: its files are well-formed, and the alerts name only metrics that a running cluster exposes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cluster.targets import targets
from counters.apply import dead_letters, partitions, tasks
from tests.support.cluster import Cluster, eventually, frozen
from tests.support.commands import ROOT

HOME = ROOT / "monitoring"
RUNBOOK = ROOT / "docs" / "runbook.md"
METRIC = re.compile(r"\b(?:tally|patroni|etcd|flower)_\w+")


def rules() -> list[dict[str, Any]]:
    """Every alert."""
    return [rule for group in yaml.safe_load((HOME / "alerts.yml").read_text())["groups"] for rule in group["rules"]]


def exposed(cluster: Cluster) -> dict[str, str]:
    """What each target of the cluster answers, by its name."""
    headers = {"Authorization": f"Bearer {(cluster.dir / 'metrics-token').read_text().strip()}"}
    return {
        group["labels"]["process"]: httpx.get(f"http://{group['targets'][0]}/metrics", headers=headers, timeout=10).text
        for group in targets(cluster.status()["processes"])
    }


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names) > 10
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]
        assert len(rule["annotations"]["description"]) > 40


def test_each_alert_has_its_section_in_the_runbook() -> None:
    sections = re.findall(r"^### (\w+)\n\n(.*?)(?=^#|\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    assert sorted(name for name, _ in sections) == sorted(rule["alert"] for rule in rules())
    severities = {rule["alert"]: rule["labels"]["severity"] for rule in rules()}
    for name, text in sections:
        assert re.findall(r"^- \*\*(\w+):\*\*", text, re.MULTILINE) == ["Means", "Look", "Do"], name
        assert text.startswith(f"- **Means:** {severities[name]}. "), name
    for rule in rules():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_each_alert_has_a_test_in_which_it_fires() -> None:
    """promtool runs them: test_promtool_agrees."""
    expected = {
        name
        for test in yaml.safe_load((HOME / "alerts.test.yml").read_text())["tests"]
        for one in test["promql_expr_test"]
        for sample in one["exp_samples"]
        for name in re.findall(r'alertname="(\w+)"', one["expr"] + sample["labels"])
    }
    assert expected == {rule["alert"] for rule in rules()}


def test_every_metric_of_an_alert_is_exposed_by_a_running_cluster(cluster: Cluster) -> None:
    there = set(re.findall(r"^# TYPE (\S+)", "\n".join(exposed(cluster).values()), re.MULTILINE))
    named = {metric.removesuffix("_bucket") for rule in rules() for metric in METRIC.findall(rule["expr"])}
    assert len(named) > 10
    assert named - there == set()


def test_every_process_with_metrics_is_a_target_and_answers(cluster: Cluster) -> None:
    answers = exposed(cluster)
    assert {"api-1", "api-2", "worker-0-1", "worker-1-1", "spill-worker-1", "patroni-0-1", "etcd"} <= set(answers)
    assert all("# TYPE " in text for text in answers.values())
    workers = {
        group["labels"]["of_shard"]
        for group in targets(cluster.status()["processes"])
        if group["labels"]["role"] == "worker"
    }
    assert workers == {"0", "1"}
    written = (cluster.dir / "monitoring" / "targets.json").read_text()
    assert json.loads(written) == targets(cluster.status()["processes"]), "what `cluster up --monitoring` reads"


def total(cluster: Cluster, name: str, **labels: str) -> float:
    """The sum of the samples with these labels, over all processes that have them."""
    return sum(
        sample.value
        for text in exposed(cluster).values()
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@pytest.mark.parametrize(("way", "headers"), [("fast path", {}), ("view", {"X-Unknown": "1"})])
def test_a_request_is_counted_once_whichever_way_it_takes(
    cluster: Cluster, client: httpx.Client, key: str, way: str, headers: dict[str, str]
) -> None:
    of_it = {"method": "POST", "route": "/v1/counters/{key}/increments"}

    def counted() -> tuple[float, float, float]:
        took = total(cluster, "tally_request_seconds_count", **of_it)
        return (
            took,
            total(cluster, "tally_requests_total", **of_it, status="202"),
            total(cluster, "tally_requests_total", **of_it, way=way),
        )

    before = counted()
    for _ in range(3):
        client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, headers=headers).raise_for_status()
    assert counted() == tuple(number + 3 for number in before)


def test_a_batch_tells_how_long_its_replicas_took(cluster: Cluster, client: httpx.Client, key: str) -> None:
    count, age = "tally_convergence_seconds_count", "tally_convergence_seconds_sum"
    before, aged, began = total(cluster, count), total(cluster, age), time.monotonic()
    client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 10}).raise_for_status()
    eventually(lambda: total(cluster, count) > before)
    number, seconds = total(cluster, count) - before, total(cluster, age) - aged
    assert 0 < seconds < number * (time.monotonic() - began)


def test_what_waits_for_an_operator_is_told_by_every_process_at_once(cluster: Cluster, key: str) -> None:
    """The gauges are read from Redis at the scrape: no process must have seen it happen."""
    tellers = ("api-1", "api-2", "worker-0-1", "spill-worker-1")

    def told() -> set[str]:
        answers = exposed(cluster)
        return {
            line
            for name in tellers
            for line in answers[name].splitlines()
            if line.startswith("tally_dead_letters_kept ")
        }

    before = dead_letters.count()
    dead_letters.keep(key, ([], {}), "shard-0", "unknown task: of a test")
    try:
        assert told() == {f"tally_dead_letters_kept {before + 1:.1f}"}
    finally:
        for id, letter in dead_letters.letters().items():
            if letter.task == key:
                dead_letters.discard(id)
    assert told() == {f"tally_dead_letters_kept {before:.1f}"}


@pytest.mark.usefixtures("whole")
def test_partitions_are_maintained_where_they_can_be_and_told(cluster: Cluster) -> None:
    began = time.time()
    with frozen(*cluster.processes("postgres", 0)):
        tasks.maintain_partitions()
        assert partitions.maintained_at(0) < began <= partitions.maintained_at(1)
    cluster.wait_until_whole()
    tasks.maintain_partitions()
    for name in ("api-1", "worker-1-1", "spill-worker-1"):
        told = re.findall(
            r'^tally_partitions_maintained_at_seconds\{shard="(.)"\} (\S+)$', exposed(cluster)[name], re.MULTILINE
        )
        assert [(shard, float(at) >= began) for shard, at in told] == [("0", True), ("1", True)]


@pytest.mark.parametrize(
    "command",
    [("check", "rules", "alerts.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", "alerts.test.yml")],
    ids=lambda command: " ".join(command[:2]),
)
def test_promtool_agrees(command: tuple[str, ...], tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH (Debian: prometheus)")
    shutil.copytree(HOME, tmp_path / "monitoring")
    (tmp_path / "monitoring" / "targets.json").write_text("[]")  # `check config` wants these to be there
    (tmp_path / "monitoring" / "metrics-token").write_text("x")
    done = subprocess.run(
        [promtool, *command], cwd=tmp_path / "monitoring", capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
