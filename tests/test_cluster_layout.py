"""The pure parts of the local cluster: layout, ports, back-off, order of a stop, texts of the configuration files."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import ClusterError, configs, layout, plan, prepare
from cluster.child import Backoff, last_line
from cluster.commands import _parser
from cluster.layout import Asked, Directory, Layout
from cluster.programs import Programs

SECRETS = {name: f"secret-of-{name}" for name in layout.SECRET_NAMES}
PROGRAMS = Programs(Path("/p/etcd"), Path("/p/redis-server"), Path("/p/nginx"), Path("/p/pg/bin"), False, ("unshare", "--"))


def everything_free(_: int) -> bool:
    return True


def with_ports(wanted: Layout) -> Layout:
    ports = layout.choose_ports([*layout.port_names(wanted), "nginx"], {}, everything_free, 20000)
    return replace(wanted, ports=ports)


def planner(wanted: Layout, directory: Directory) -> plan.Planner:
    environment = configs.environment(wanted, directory, SECRETS)
    return plan.Planner(wanted, directory, PROGRAMS, SECRETS, {"PATH": "/bin"}, environment)


# Ports


def test_every_process_gets_a_port_of_its_own() -> None:
    ports = with_ports(Layout(shards=3, replicas=2)).ports
    assert len(set(ports.values())) == len(ports)
    assert all(port in layout.PORT_RANGE for port in ports.values())


def test_remembered_ports_stay_while_they_are_free() -> None:
    first = layout.choose_ports(["a", "b"], {}, everything_free, 25000)
    assert layout.choose_ports(["a", "b", "c"], first, everything_free, 21000) == {**first, "c": 21000}


def test_a_port_that_another_took_is_chosen_anew_and_the_others_stay() -> None:
    chosen = layout.choose_ports(["a", "b"], {"a": 25000, "b": 25001}, lambda port: port != 25000, 25000)
    assert chosen == {"a": 25002, "b": 25001}


def test_choice_turns_round_at_the_end_of_the_range() -> None:
    assert layout.choose_ports(["a", "b"], {}, everything_free, 29999) == {"a": 29999, "b": 20000}


def test_no_port_left_is_a_sentence() -> None:
    with pytest.raises(ClusterError, match="no free port"):
        layout.choose_ports(["a"], {}, lambda _: False, 20000)


# Layout


def test_defaults() -> None:
    wanted = layout.reconcile(None, Asked(), Path("/d"))
    assert (wanted.shards, wanted.replicas, wanted.scale["api"]) == (2, 1, 2)


def test_zero_replicas_are_possible() -> None:
    assert layout.reconcile(None, Asked(replicas=0), Path("/d")).nodes == [(0, 1), (1, 1)]


def test_what_may_change_at_a_later_start() -> None:
    changed = layout.reconcile(Layout(), Asked(shards=2, replicas=3, api=5), Path("/d"))
    assert (changed.shards, changed.replicas, changed.scale["api"]) == (2, 3, 5)


@pytest.mark.parametrize("asked", [Asked(shards=3), Asked(shards=1), Asked(replicas=0)])
def test_what_may_not_change_is_a_sentence_that_says_what_to_do(asked: Asked) -> None:
    with pytest.raises(ClusterError, match=r"was made with .*destroy.*--dir"):
        layout.reconcile(Layout(), asked, Path("/d"))


def test_layout_survives_the_disk(tmp_path: Path) -> None:
    wanted = with_ports(Layout(shards=1, replicas=5))
    layout.save(Directory(tmp_path), wanted)
    assert layout.load(Directory(tmp_path)) == wanted


@pytest.mark.parametrize("text", ["", "{", "[]", '{"shards": 1}', '{"shards":"x","replicas":1,"scale":{},"ports":{}}'])
def test_a_broken_layout_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "layout.json").write_text(text)
    with pytest.raises(ClusterError, match="destroy"):
        layout.load(Directory(tmp_path))


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    first = layout.load_secrets(Directory(tmp_path))
    assert layout.load_secrets(Directory(tmp_path)) == first
    assert len(set(first.values())) == len(layout.SECRET_NAMES)
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_lost_secrets_of_existing_databases_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with pytest.raises(ClusterError, match=r"secrets\.json is missing"):
        layout.load_secrets(Directory(tmp_path))


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ClusterError, match="--dir"):
        Directory(tmp_path / "file" / "sub").prepare()


# Supervision


def test_backoff_starts_at_once_then_doubles_to_ten_seconds() -> None:
    backoff = Backoff()
    assert [backoff.next(0.0) for _ in range(9)] == [0, 0.5, 1, 2, 4, 8, 10, 10, 10]


def test_backoff_is_forgotten_after_a_healthy_life() -> None:
    backoff = Backoff()
    waits = [backoff.next(healthy) for healthy in (0, 0, 0, 9.9, 10, 0)]
    assert waits == [0, 0.5, 1, 2, 0, 0.5]


def test_a_stop_goes_from_traffic_to_storage_and_ends_with_the_primary(tmp_path: Path) -> None:
    specs = planner(with_ports(Layout()), Directory(tmp_path)).specs()
    order = plan.stages({spec.name: spec.role for spec in specs}, {"patroni-0-1", "patroni-1-2"}.__contains__)
    place = {name: index for index, stage in enumerate(order) for name in stage}
    assert set(place) == {spec.name for spec in specs}
    assert place["nginx"] < place["api-1"] < place["beat"] < place["worker-0-1"] < place["patroni-0-2"]
    assert place["patroni-0-2"] < place["patroni-0-1"] < place["redis-journal"]
    assert place["patroni-1-1"] < place["patroni-1-2"] < place["etcd"]


def test_last_line_prefers_the_error(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("start\n2026 FATAL: lock file exists\nHINT: none\n\n")
    assert last_line(log) == "2026 FATAL: lock file exists"
    assert last_line(tmp_path / "none.log") == ""


# Plan


def test_every_process_of_the_contract_is_planned(tmp_path: Path) -> None:
    specs = planner(with_ports(Layout()), Directory(tmp_path)).specs()
    assert {spec.role for spec in specs} == {
        *("etcd", "patroni", "redis-journal", "redis-cache", "nginx", "api", "worker", "spill-worker", "beat", "flower")
    }
    names = [spec.name for spec in specs]
    assert len(set(names)) == len(names)
    assert {"api-1", "api-2", "worker-0-1", "worker-1-1", "spill-worker-1", "patroni-1-2"} <= set(names)


def test_scaled_counts_are_planned(tmp_path: Path) -> None:
    wanted = with_ports(Layout(scale={"api": 3, "worker": 2, "spill-worker": 0}))
    specs = planner(wanted, Directory(tmp_path)).specs()
    assert [spec.name for spec in specs if spec.role == "worker"] == [f"worker-{s}-{i}" for s in (0, 1) for i in (1, 2)]
    assert sum(spec.role == "api" for spec in specs) == 3
    assert not [spec for spec in specs if spec.role == "spill-worker"]


def test_processes_of_tally_wait_for_migrations_only_where_tables_are_not_known_to_be_right(tmp_path: Path) -> None:
    plan_of = planner(with_ports(Layout()), Directory(tmp_path))
    for migrated in (False, True):
        api = next(spec for spec in replace(plan_of, migrated=migrated).specs() if spec.role == "api")
        assert {"databases-0", "databases-1", "redis-journal"} <= set(api.after)
        assert ("migrate" in api.after) is not migrated


def test_schema_changes_with_a_migration(tmp_path: Path) -> None:
    (tmp_path / "app" / "migrations").mkdir(parents=True)
    before = prepare.schema(tmp_path)
    (tmp_path / "app" / "migrations" / "0001_initial.py").write_text("x = 1")
    assert prepare.schema(tmp_path) != before


def test_only_patroni_leaves_root_behind(tmp_path: Path) -> None:
    specs = planner(with_ports(Layout()), Directory(tmp_path)).specs()
    assert {spec.role for spec in specs if spec.argv[0] == "unshare"} == {"patroni"}
    assert next(spec for spec in specs if spec.role == "patroni").argv[2:5] == (sys.executable, "-m", "patroni")


def test_workers_know_their_name_and_their_metrics_port(tmp_path: Path) -> None:
    wanted = with_ports(Layout())
    worker = next(spec for spec in planner(wanted, Directory(tmp_path)).specs() if spec.name == "worker-1-1")
    assert worker.environment["TALLY_NODE_ID"] == "worker-1-1"
    assert worker.environment["TALLY_METRICS_PORT"] == str(wanted.ports["worker-1-1"]) == str(worker.metrics_port)
    assert worker.shard == 1
    assert "shard-1" in worker.argv


def test_settings_of_other_programs_are_not_inherited() -> None:
    environ = {"PATH": "/bin", "PGHOST": "x", "PATRONI_NAME": "x", "GRANIAN_PORT": "1", "TALLY_LOG_LEVEL": "DEBUG"}
    kept = plan.base_environment(environ, Path("/d"))
    assert kept == {"PATH": "/bin", "TALLY_LOG_LEVEL": "DEBUG", plan.MARK: "/d", "PYTHONUNBUFFERED": "1"}


# Configuration files


def test_environment_describes_every_node(tmp_path: Path) -> None:
    wanted = with_ports(Layout(shards=2, replicas=1))
    values = configs.environment(wanted, Directory(tmp_path), SECRETS)
    shards = json.loads(values["TALLY_SHARDS"])
    assert [len(shard["nodes"]) for shard in shards] == [2, 2]
    node = shards[1]["nodes"][0]
    assert node["port"] == wanted.ports["postgres-1-1"]
    assert node["patroni"] == f"http://127.0.0.1:{wanted.ports['patroni-1-1']}"
    assert values["TALLY_JOURNAL_URL"].endswith("/0")
    assert values["TALLY_BROKER_URL"].endswith("/1")


def test_a_broker_of_ones_own_takes_the_place_of_the_journals_redis(tmp_path: Path) -> None:
    values = configs.environment(with_ports(Layout()), Directory(tmp_path), SECRETS, "amqp://a:b@127.0.0.1//")
    assert values["TALLY_BROKER_URL"] == "amqp://a:b@127.0.0.1//"
    assert values["TALLY_JOURNAL_URL"].startswith("redis://")


def test_env_file_is_one_line_a_name(tmp_path: Path) -> None:
    values = configs.environment(with_ports(Layout()), Directory(tmp_path), SECRETS)
    lines = configs.env_file(values).splitlines()
    assert {line.partition("=")[0]: line.partition("=")[2] for line in lines} == values


def test_patroni_keeps_its_own_rule_of_times(tmp_path: Path) -> None:
    config = patroni(tmp_path)
    dcs = config["bootstrap"]["dcs"]
    assert dcs["ttl"] >= dcs["loop_wait"] + 2 * dcs["retry_timeout"]
    assert dcs["primary_start_timeout"] == 0


def test_postgres_listens_on_loopback_alone_with_scram(tmp_path: Path) -> None:
    config = patroni(tmp_path)["postgresql"]
    assert config["listen"].startswith("127.0.0.1:")
    assert config["parameters"]["unix_socket_directories"] == ""
    assert all(re.fullmatch(r"host \S+ \w+ 127\.0\.0\.1/32 scram-sha-256", rule) for rule in config["pg_hba"])


def patroni(tmp_path: Path) -> dict[str, Any]:
    wanted = with_ports(Layout())
    text = configs.patroni(wanted, Directory(tmp_path), SECRETS, shard=1, node=2, bin_dir=Path("/p/pg/bin"), lz4=False)
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


def test_journal_is_durable_and_cache_is_not(tmp_path: Path) -> None:
    journal, cache = (render(1, "pw", tmp_path) for render in (configs.redis_journal, configs.redis_cache))
    for line in ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction", 'save ""', "bind 127.0.0.1"):
        assert line in journal.splitlines()
    for line in ("appendonly no", "maxmemory-policy allkeys-lru", "requirepass pw", 'save ""'):
        assert line in cache.splitlines()


def test_nginx_has_every_api_process_and_nothing_left_to_fill_in(tmp_path: Path) -> None:
    wanted = with_ports(Layout())
    text = configs.nginx(wanted, Directory(tmp_path), as_root=False)
    assert re.findall(r"server 127\.0\.0\.1:(\d+) max_fails", text) == [str(wanted.ports[f"api-{i}"]) for i in (1, 2)]
    assert not re.search(r"@[A-Z_]+@", text)
    assert "non_idempotent;" not in text
    assert "user root;" in configs.nginx(wanted, Directory(tmp_path), as_root=True)


def test_errors_of_nginx_are_problem_documents(tmp_path: Path) -> None:
    text = configs.nginx(with_ports(Layout()), Directory(tmp_path), as_root=False)
    documents = [json.loads(body) for body in re.findall(r"return \d+ '(.*)';", text)]
    assert {document["status"] for document in documents} >= {400, 413, 414, 431, 503}
    assert all(set(document) == {"type", "title", "status", "detail"} for document in documents)


# Options


@pytest.mark.parametrize(
    "argv", [["up", "--shards", "0"], ["up", "--api", "-1"], ["up", "--broker", "http://x"], ["scale", "api=0"], ["scale", "x=1"], []]
)
def test_bad_options_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(argv)
