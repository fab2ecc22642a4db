"""`cluster up --monitoring`: its processes, files and commands, without a start. test_prometheus.py has one that runs;
Grafana has not been run."""

from __future__ import annotations

import json
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cluster import ClusterError, configs, layout, monitoring, plan, programs, release, targets, upgrade
from cluster.commands import _parser
from cluster.layout import Asked, Directory, Layout
from cluster.plan import Planner
from cluster.programs import Programs
from counter_project.config import Config
from counters.api.status import tools
from monitoring.dashboards import DASHBOARDS
from tests.tools.test_cluster_layout import PROGRAMS, SECRETS, planner, with_ports

WATCHED = with_ports(Layout(monitoring=True))
BOTH = replace(PROGRAMS, prometheus=Path("/p/prometheus"), grafana=Path("/p/grafana"))


def watching(directory: Path, found: Programs = BOTH) -> Planner:
    return replace(planner(WATCHED, Directory(directory)), programs=found)


def test_the_option_is_kept_until_it_is_taken_back(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    layout.save(directory, layout.reconcile(None, Asked(monitoring=True), tmp_path))
    stored = layout.load(directory)
    assert stored is not None
    assert layout.reconcile(stored, Asked(), tmp_path).monitoring
    assert not layout.reconcile(stored, Asked(monitoring=False), tmp_path).monitoring
    asked = [_parser().parse_args(["up", *words]).monitoring for words in ([], ["--monitoring"], ["--no-monitoring"])]
    assert asked == [None, True, False]


def test_without_prometheus_the_start_fails_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterError, match=r"prometheus is not on PATH: install Prometheus .*--no-monitoring"):
        programs.with_monitoring(PROGRAMS)


@pytest.mark.parametrize("names", [[], ["grafana"], ["grafana-server"], ["grafana", "grafana-server"]])
def test_programs_are_found_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]) -> None:
    for name in ("prometheus", *names):
        (tmp_path / name).touch(mode=0o700)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = programs.with_monitoring(PROGRAMS)
    assert found.prometheus == tmp_path / "prometheus"
    assert found.grafana == (tmp_path / names[0] if names else None)


def test_they_are_processes_like_the_others(tmp_path: Path) -> None:
    specs = {spec.name: spec for spec in watching(tmp_path).specs()}
    roles = {name: spec.role for name, spec in specs.items()}
    assert {name: specs[name].port for name in ("prometheus", "grafana")} == {
        name: WATCHED.ports[name] for name in ("prometheus", "grafana")
    }
    assert {name for stage in plan.stages(roles, lambda _: False) for name in stage} == roles.keys()
    assert set(upgrade.in_order(roles)) == roles.keys()
    assert f"--web.listen-address=127.0.0.1:{WATCHED.ports['prometheus']}" in specs["prometheus"].argv
    assert not [word for spec in specs.values() for word in spec.argv if SECRETS["prometheus"] in word]


def test_without_grafana_there_is_prometheus_alone(tmp_path: Path) -> None:
    roles = {spec.role for spec in watching(tmp_path, replace(BOTH, grafana=None)).specs()}
    assert ("prometheus" in roles, "grafana" in roles) == (True, False)
    assert configs.monitoring_links(WATCHED, grafana=False).keys() == {"TALLY_PROMETHEUS_URL"}
    assert configs.monitoring_links(with_ports(Layout()), grafana=True) == {}


def test_staff_get_links_to_what_runs() -> None:
    links = configs.monitoring_links(WATCHED, grafana=True)
    assert {name.removeprefix("TALLY_").lower() for name in links} <= Config.model_fields.keys()
    shown = tools("", links["TALLY_PROMETHEUS_URL"], links["TALLY_GRAFANA_URL"])
    assert [(tool.name, tool.url) for tool in shown] == [
        ("Prometheus", f"http://127.0.0.1:{WATCHED.ports['prometheus']}/"),
        ("Grafana", f"http://127.0.0.1:{WATCHED.ports['grafana']}/"),
    ]


def test_what_prometheus_starts_with_is_for_the_owner_alone(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.monitoring.mkdir()
    monitoring.write_prometheus(directory, SECRETS)
    files = {path.name: path for path in directory.monitoring.iterdir()}
    assert files.keys() == {"prometheus.yml", "alerts.yml", "metrics-token", "web.yml"}
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    assert files["metrics-token"].read_text() == f"{SECRETS['metrics']}\n"
    assert SECRETS["prometheus"] not in files["web.yml"].read_text()
    (job,) = yaml.safe_load(files["prometheus.yml"].read_text())["scrape_configs"]
    assert job["authorization"] == {"credentials_file": "metrics-token"}
    assert job["file_sd_configs"] == [{"files": ["targets.json"]}]


def test_targets_are_written_when_they_change(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.monitoring.mkdir()
    file = directory.monitoring / "targets.json"
    row = {"name": "worker-0-1", "role": "worker", "shard": 0, "metrics_port": 20001}
    nginx = {"name": "nginx", "role": "nginx", "shard": None, "metrics_port": None}
    targets.write(directory, [row, nginx])
    labels = {"process": "worker-0-1", "role": "worker", "of_shard": "0"}
    assert json.loads(file.read_text()) == [{"targets": ["127.0.0.1:20001"], "labels": labels}]
    first = file.stat().st_ino
    targets.write(directory, [row, nginx])
    assert file.stat().st_ino == first, "Prometheus would read it again"
    targets.write(directory, [row, {**row, "name": "worker-0-2", "metrics_port": 20002}])
    assert [group["targets"] for group in json.loads(file.read_text())] == [["127.0.0.1:20001"], ["127.0.0.1:20002"]]


def test_grafana_has_the_data_source_the_dashboards_and_a_password(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    monitoring.write_grafana(directory, WATCHED.ports, SECRETS)
    settings = ConfigParser(interpolation=None)
    settings.read(directory["grafana"] / "grafana.ini")
    assert settings["server"]["http_addr"] == "127.0.0.1"
    assert settings["server"]["http_port"] == str(WATCHED.ports["grafana"])
    assert settings["security"]["admin_password"] == SECRETS["grafana"]
    assert not settings.getboolean("auth.anonymous", "enabled")
    provisioning = Path(settings["paths"]["provisioning"])
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == f"http://127.0.0.1:{WATCHED.ports['prometheus']}"
    assert source["secureJsonData"] == {"basicAuthPassword": SECRETS["prometheus"]}
    (provider,) = yaml.safe_load((provisioning / "dashboards/tally.yml").read_text())["providers"]
    assert {path.stem for path in Path(provider["options"]["path"]).glob("*.json")} == DASHBOARDS.keys()
    assert {path.stat().st_mode & 0o077 for path in directory["grafana"].rglob("*")} == {0}


@pytest.mark.parametrize(("name", "verb"), [("grafana", ["server"]), ("grafana-server", [])])
def test_grafana_is_told_where_its_files_are(tmp_path: Path, name: str, verb: list[str]) -> None:
    """As in its archive: programs in `bin`, beside `conf`."""
    program = tmp_path / "bin" / name
    for file in (program, tmp_path / "conf" / "defaults.ini"):
        file.parent.mkdir()
        file.touch()
    command = monitoring.grafana(program, Directory(tmp_path / "cluster"))
    assert command == (
        *(str(program), *verb, f"--config={tmp_path}/cluster/grafana/grafana.ini", f"--homepath={tmp_path}"),
    )


def test_a_change_of_the_rules_is_none_of_the_servers(tmp_path: Path) -> None:
    for name in ("etcd", "prometheus", "postgres"):
        (tmp_path / name).touch()
    rules = tmp_path / "monitoring" / "alerts.yml"
    rules.parent.mkdir()
    rules.write_text("groups: []\n")
    (etcd, prometheus) = (tmp_path / "etcd", tmp_path / "prometheus")
    found = replace(PROGRAMS, etcd=etcd, redis=etcd, nginx=etcd, postgres_bin=tmp_path, prometheus=prometheus)
    first = release.release(tmp_path, found, {})
    rules.write_text("groups: [{}]\n")
    second = release.release(tmp_path, found, {})
    prometheus.write_text("newer")
    third = release.release(tmp_path, found, {})
    assert len({one.of("prometheus") for one in (first, second, third)}) == 3
    assert len({(one.of("patroni"), one.of("api")) for one in (first, second, third)}) == 1
