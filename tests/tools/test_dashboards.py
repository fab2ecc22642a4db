"""Grafana's dashboards, checked without Grafana."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring import dashboards, reference
from tests.support.commands import ROOT

UNITS = {"short", "s", "bytes", "ops", "reqps", "percentunit", "bool_yes_no"}
NOT_TALLYS = {"up", "patroni_primary"}  # Prometheus' own, and a name that an alert has as well
METRIC = re.compile(r"\b(?:tally_\w+|patroni_\w+|up\b)")

ALL = {path.stem: json.loads(path.read_text()) for path in sorted(dashboards.HOME.glob("*.json"))}


def panels() -> list[dict[str, Any]]:
    return [panel for one in ALL.values() for panel in one["panels"]]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def test_the_files_are_what_the_module_writes() -> None:
    """To write them anew: python -m monitoring.dashboards."""
    assert {path: path.read_text() for path in dashboards.HOME.glob("*.json")} == dashboards.files()


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
def test_every_panel_asks_the_chosen_source_and_has_a_unit(name: str) -> None:
    assert [one["name"] for one in ALL[name]["templating"]["list"]] == ["datasource"]
    for panel in ALL[name]["panels"]:
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_every_metric_is_exported_with_the_labels_that_are_asked_for() -> None:
    rows = {row.name: row for row in reference.rows()}
    for expression in expressions():
        names = {re.sub(r"_bucket$", "", name) for name in METRIC.findall(expression)}
        assert names, expression
        assert names - NOT_TALLYS <= set(rows), expression
        if not names & NOT_TALLYS:
            labels = {label for name in names for label in rows[name].labels} | {"le"}
            asked = {label for by in re.findall(r" by \(([^)]*)\)", expression) for label in by.split(", ")}
            asked |= set(re.findall(r"[{,]\s*(\w+)=", expression))
            assert asked <= labels, expression


def test_each_legend_names_labels_of_its_series() -> None:
    for panel in panels():
        for target in panel["targets"]:
            by = {label for labels in re.findall(r" by \(([^)]*)\)", target["expr"]) for label in labels.split(", ")}
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= by, panel["title"]
            assert target["legendFormat"], panel["title"]


def test_prometheus_parses_every_expression(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not on PATH (Debian: prometheus)")
    rules = [
        {"record": f"panel:{number}", "expr": one.replace("$__rate_interval", "1m")}
        for number, one in enumerate(expressions())
    ]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", "panels.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout
