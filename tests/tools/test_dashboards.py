"""Grafana's dashboards, checked without Grafana."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from typing import Any

import promql_parser as promql
import pytest
import yaml

from monitoring import dashboards, reference
from tests.support.commands import ROOT

UNITS = {"short", "s", "bytes", "ops", "reqps", "percentunit", "bool_yes_no"}
TARGETS = {"process", "role", "of_shard"}  # what cluster/targets.py adds
OTHERS: dict[str, set[str]] = {
    "nginx_connections_active": set(),
    "nginx_http_requests_total": set(),
    "up": set(),
    "patroni_dcs_last_seen": {"scope", "name"},
    "patroni_postgres_running": {"scope", "name"},
    "patroni_postgres_streaming": {"scope", "name"},
    "patroni_primary": {"scope", "name"},
    "patroni_replica": {"scope", "name"},
}  # what Prometheus, Patroni and nginx' exporter export, with their labels
ALL = {path.stem: json.loads(path.read_text()) for path in sorted(dashboards.HOME.glob("*.json"))}


def panels() -> list[dict[str, Any]]:
    return [panel for one in ALL.values() for panel in one["panels"]]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


ALERTS = yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())["groups"]
ASKED = sorted(
    {one.replace("$__rate_interval", "1m") for one in expressions()}
    | {rule["expr"] for group in ALERTS for rule in group["rules"]}
)


def test_the_files_are_what_the_module_writes() -> None:
    """To write them anew: python -m monitoring.dashboards."""
    assert {path: path.read_text() for path in dashboards.HOME.glob("*.json")} == dashboards.files()


def test_they_are_of_grafanas_types() -> None:
    """tsc compares the files with the types of @grafana/schema."""
    home, npm = ROOT / "monitoring" / "types", shutil.which("npm")
    if npm is None or not (home / "node_modules").is_dir():
        pytest.skip("the packages of monitoring/types are not installed: make dashboards")
    done = subprocess.run(
        [npm, "run", "--silent", "check"], cwd=home, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_of_their_types_names_no_registry() -> None:
    lock = json.loads((ROOT / "monitoring" / "types" / "package-lock.json").read_text())
    packages = [package for path, package in lock["packages"].items() if path]
    assert packages
    assert all(package["integrity"].startswith("sha512-") and "resolved" not in package for package in packages)


def test_grafana_finds_them_where_compose_puts_them() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.production.yml").read_text())
    provider = yaml.safe_load((dashboards.HOME / "tally.yml").read_text())["providers"][0]
    assert "./monitoring/grafana:/etc/grafana/provisioning:ro" in compose["services"]["grafana"]["volumes"]
    assert provider["options"]["path"] == "/etc/grafana/provisioning/dashboards"


def test_ids_are_unique() -> None:
    assert len({one["uid"] for one in ALL.values()}) == len({one["title"] for one in ALL.values()}) == len(ALL) == 6
    for name, one in ALL.items():
        ids = [panel["id"] for panel in one["panels"]]
        assert len(set(ids)) == len(ids) >= 4, name


@pytest.mark.parametrize("name", ALL)
def test_panels_fill_the_grid_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in ALL[name]["panels"]):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells
    assert {x for x, _ in taken} == set(range(24))


@pytest.mark.parametrize("name", ALL)
def test_each_says_what_it_shows(name: str) -> None:
    titles = [panel["title"] for panel in ALL[name]["panels"]]
    assert len(set(titles)) == len(titles)
    for one in (ALL[name], *ALL[name]["panels"]):
        assert one["title"]
        assert one["description"].endswith("."), one["title"]


@pytest.mark.parametrize("name", ALL)
def test_every_panel_asks_the_chosen_source_and_has_a_unit(name: str) -> None:
    assert [one["name"] for one in ALL[name]["templating"]["list"]] == ["datasource"]
    for panel in ALL[name]["panels"]:
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@cache
def exported() -> dict[str, reference.Row]:
    return {row.name: row for row in reference.rows()}


def walk(expression: promql.Expr) -> list[Any]:
    """Every node, an outer one before those within it."""
    nodes: list[Any] = []
    promql.walk(expression, nodes.append)  # which returns None: go on
    return nodes


def metric(selector: Any) -> tuple[str, str, set[str]]:
    """Name, type and labels of what a selector asks for. KeyError if nobody exports it."""
    if selector.name in OTHERS:
        kind = "counter" if selector.name.endswith("_total") else "gauge"
        return selector.name, kind, OTHERS[selector.name] | TARGETS
    row = exported()[re.sub(r"_(?:bucket|count|sum)$", "", selector.name)]
    assert (row.type == "histogram") == (row.name != selector.name), selector.name
    return row.name, row.type, {*row.labels, *(["le"] if selector.name.endswith("_bucket") else []), *TARGETS}


@pytest.mark.parametrize("expression", ASKED)
def test_every_expression_is_promql(expression: str) -> None:
    promql.parse(expression)


@pytest.mark.parametrize("expression", ASKED)
def test_every_metric_is_exported_with_the_labels_that_are_asked_for(expression: str) -> None:
    nodes = walk(promql.parse(expression))
    selectors = [node for node in nodes if isinstance(node, promql.VectorSelector)]
    assert selectors
    for selector in selectors:
        assert {one.name for one in selector.matchers.matchers} <= metric(selector)[2]
    for node in nodes:
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            within = [one for one in walk(node.expr) if isinstance(one, promql.VectorSelector)]
            assert set(node.modifier.labels) <= set.intersection(*(metric(one)[2] for one in within))


@pytest.mark.parametrize("expression", ASKED)
def test_what_only_grows_is_asked_for_as_a_rate_and_nothing_else_is(expression: str) -> None:
    nodes = walk(promql.parse(expression))
    rates = {
        node.args[0].vector_selector.name
        for node in nodes
        if isinstance(node, promql.Call) and node.func.name in {"rate", "increase"}
    }
    growing = {node.name for node in nodes if isinstance(node, promql.VectorSelector) and metric(node)[1] != "gauge"}
    assert rates == growing


def test_each_legend_names_labels_of_its_series() -> None:
    for panel in panels():
        for target in panel["targets"]:
            by = {label for labels in re.findall(r" by \(([^)]*)\)", target["expr"]) for label in labels.split(", ")}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= by, panel["title"]
            assert target["legendFormat"], panel["title"]
