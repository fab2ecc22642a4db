"""The pure parts of the local cluster: layout, scale, ports, back-off, order of a stop, lanes, texts of the
configuration files."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import yaml

from cluster import ClusterError, configs, lanes, layout, plan, prepare, processes, release, sentinels, state, upgrade
from cluster.child import Backoff, last_line
from cluster.commands import _parser, run
from cluster.configs import NginxSettings
from cluster.console import Console
from cluster.lanes import Lease
from cluster.layout import Asked, Directory, Layout
from cluster.postgres import Node
from cluster.programs import Programs
from counter_project.config import Config
from sharding.lanes import Lane

SECRETS = {name: f"secret-of-{name}" for name in layout.SECRET_NAMES}
PROGRAMS = Programs(
    Path("/p/etcd"), Path("/p/redis-server"), Path("/p/nginx"), Path("/p/pg/bin"), False, ("unshare", "--")
)


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


def test_a_quorum_is_never_larger_than_the_number_of_replicas() -> None:
    assert layout.reconcile(Layout(), Asked(replicas=2, quorum=2), Path("/d")).replicas == 2
    with pytest.raises(ClusterError, match="a write quorum of 2 can never be met with 1 replica of each shard"):
        layout.reconcile(Layout(), Asked(quorum=2), Path("/d"))


@pytest.mark.parametrize("asked", [Asked(shards=3), Asked(shards=1), Asked(replicas=0)])
def test_what_may_not_change_is_a_sentence_that_says_what_to_do(asked: Asked) -> None:
    with pytest.raises(ClusterError, match=r"was made with .*destroy.*--dir"):
        layout.reconcile(Layout(), asked, Path("/d"))


@pytest.mark.parametrize("scale", [Layout().scale, {"api": 1, "worker": 2, "spill-worker": 0, "worker-0": 4}])
def test_layout_survives_the_disk(tmp_path: Path, scale: dict[str, int]) -> None:
    wanted = with_ports(Layout(shards=1, replicas=5, scale=scale))
    layout.save(Directory(tmp_path), wanted)
    assert layout.load(Directory(tmp_path)) == wanted


def test_a_layout_from_before_single_shards_could_be_scaled_loads(tmp_path: Path) -> None:
    text = '{"shards": 3, "replicas": 1, "scale": {"api": 3, "worker": 2, "spill-worker": 0}, "ports": {"nginx": 8000}}'
    (tmp_path / "layout.json").write_text(text)
    stored = layout.load(Directory(tmp_path))
    assert stored == Layout(3, 1, {"api": 3, "worker": 2, "spill-worker": 0}, {"nginx": 8000})
    assert [stored.workers(shard) for shard in range(3)] == [2, 2, 2]


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


# Scale


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("api=3", ("api", 3)),
        ("worker=4", ("worker", 4)),
        ("worker-0=4", ("worker-0", 4)),
        ("worker-12=0", ("worker-12", 0)),
        ("spill-worker=2", ("spill-worker", 2)),
    ],
)
def test_scale_takes_a_role_or_the_workers_of_one_shard(text: str, asked: tuple[str, int]) -> None:
    assert _parser().parse_args(["scale", text]).count == asked


def test_one_shard_may_have_its_own_number_of_workers() -> None:
    wanted = layout.scaled(layout.scaled(Layout(shards=3), "worker", 2), "worker-1", 4)
    assert [wanted.workers(shard) for shard in range(3)] == [2, 4, 2]
    assert [layout.scaled(wanted, "api", 3).workers(shard) for shard in range(3)] == [2, 4, 2]
    assert [layout.scaled(wanted, "worker-1", 0).workers(shard) for shard in range(3)] == [2, 0, 2]


def test_a_number_for_every_shard_ends_those_of_single_shards() -> None:
    wanted = layout.scaled(layout.scaled(Layout(), "worker-0", 4), "worker", 3)
    assert wanted == layout.scaled(Layout(), "worker", 3)
    assert [wanted.workers(shard) for shard in range(2)] == [3, 3]


def test_an_unknown_shard_is_a_sentence_that_names_those_there_are() -> None:
    with pytest.raises(ClusterError, match=r"no shard 9: this cluster has 2 shards \(0, 1\)$"):
        layout.scaled(Layout(shards=2), "worker-9", 1)
    with pytest.raises(ClusterError, match=r"no shard 1: this cluster has 1 shard \(0\)$"):
        layout.scaled(Layout(shards=1), "worker-1", 1)


def test_scale_of_a_cluster_that_does_not_run_is_remembered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = Directory(tmp_path)
    layout.save(directory, Layout())
    state.write(directory, state.State())
    assert run(["scale", "worker-1=3", "--dir", str(tmp_path)]) == 0
    assert "worker-1=3 at the next" in capsys.readouterr().out
    stored = layout.load(directory)
    assert stored == layout.scaled(Layout(), "worker-1", 3)
    with pytest.raises(ClusterError, match="no shard 9"):
        run(["scale", "worker-9=1", "--dir", str(tmp_path)])
    assert layout.load(directory) == stored
    assert run(["scale", "worker=2", "--dir", str(tmp_path)]) == 0
    assert layout.load(directory) == layout.scaled(Layout(), "worker", 2)


def test_a_running_plan_is_scaled_and_remembered(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    directory.prepare()
    before = planner(with_ports(Layout()), directory)
    after = prepare.rescaled(before, {"worker-1": 3})
    workers = {spec.name: spec.metrics_port for spec in after.specs() if spec.role == "worker"}
    assert list(workers) == ["worker-0-1", "worker-1-1", "worker-1-2", "worker-1-3"]
    assert len(set(workers.values())) == 4
    assert before.layout.ports.items() <= after.layout.ports.items()
    assert layout.load(directory) == after.layout
    with pytest.raises(ClusterError, match="no shard 2"):
        prepare.rescaled(after, {"worker-2": 1})


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


def test_a_stop_waits_for_a_supervisor_that_is_taking_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has the lock before the state names it. If the stop gave up, nothing would ever end the cluster."""
    Directory(tmp_path).prepare()
    taking_over = Timer(0.5, prepare.lock(Directory(tmp_path)).close)
    taking_over.start()
    assert run(["down", "--dir", str(tmp_path)]) == 0
    taking_over.join()
    assert capsys.readouterr().out == "nothing was running\n"


def test_last_line_prefers_the_error(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("start\n2026 FATAL: lock file exists\nHINT: none\n\n")
    assert last_line(log) == "2026 FATAL: lock file exists"
    assert last_line(tmp_path / "none.log") == ""


# Plan


def test_every_process_of_the_contract_is_planned(tmp_path: Path) -> None:
    specs = planner(with_ports(Layout()), Directory(tmp_path)).specs()
    assert {spec.role for spec in specs} == {
        *("etcd", "patroni", "redis-journal", "redis-cache", "redis-broker", "nginx", "api", "worker", "spill-worker"),
        *("beat", "flower", "disks"),
    }
    names = [spec.name for spec in specs]
    assert len(set(names)) == len(names)
    assert {"api-1", "api-2", "worker-0-1", "worker-1-1", "spill-worker-1", "patroni-1-2"} <= set(names)


def test_a_replicated_journal_has_servers_and_sentinels(tmp_path: Path) -> None:
    wanted = with_ports(Layout(journal_replicas=1))
    specs = {spec.name: spec for spec in planner(wanted, Directory(tmp_path)).specs()}
    assert [spec.name for spec in specs.values() if spec.role == "redis-journal"] == [
        "redis-journal",
        "redis-journal-2",
    ]
    assert sum(spec.role == "sentinel" for spec in specs.values()) == 3
    assert {"redis-journal", "redis-journal-2", "redis-broker"} <= set(specs["api-1"].after)
    order = plan.stages({name: spec.role for name, spec in specs.items()}, lambda _: False)
    place = {name: index for index, stage in enumerate(order) for name in stage}
    assert place["sentinel-1"] < place["redis-journal"], "no failover while the cluster stops"
    values = configs.environment(wanted, Directory(tmp_path), SECRETS)
    assert json.loads(values["TALLY_JOURNAL_SENTINELS"]) == [
        f"127.0.0.1:{wanted.ports[name]}" for name in ("sentinel-1", "sentinel-2", "sentinel-3")
    ]
    assert values["TALLY_JOURNAL_REPLICAS"] == "1"


def test_a_journal_gets_more_replicas_and_not_fewer() -> None:
    assert layout.reconcile(Layout(), Asked(), Path("/d")).journal_replicas == 0
    assert layout.reconcile(Layout(), Asked(journal_replicas=1), Path("/d")).journal_replicas == 1
    assert layout.reconcile(Layout(journal_replicas=1), Asked(), Path("/d")).journal_replicas == 1
    with pytest.raises(ClusterError, match="1 replica"):
        layout.reconcile(Layout(journal_replicas=1), Asked(journal_replicas=0), Path("/d"))


def test_the_memory_of_postgres_is_kept_and_goes_into_its_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = Directory(tmp_path)
    wanted = with_ports(layout.reconcile(None, Asked(shared_buffers="1500MB"), tmp_path))
    layout.save(directory, wanted)
    kept = layout.reconcile(layout.load(directory), Asked(), tmp_path)
    text = configs.patroni(kept, directory, SECRETS, shard=0, node=1, bin_dir=Path("/b"), lz4=True)
    assert yaml.safe_load(text)["postgresql"]["parameters"]["shared_buffers"] == "1500MB"
    with pytest.raises(SystemExit):
        _parser().parse_args(["up", "--shared-buffers", "much"])
    assert "'much' is not a number of kB, MB or GB" in capsys.readouterr().err


def test_a_directory_from_before_gets_a_broker(tmp_path: Path) -> None:
    """Its layout names neither the broker's port nor the journal's replicas, and its secrets no password of the broker."""
    directory = Directory(tmp_path)
    stored = {"shards": 1, "replicas": 0, "scale": {"api": 1, "worker": 1, "spill-worker": 1}, "ports": {}}
    (tmp_path / "layout.json").write_text(json.dumps(stored))
    (tmp_path / "secrets.json").write_text(json.dumps({"redis-journal": "kept"}))
    found, secrets = layout.load(directory), layout.load_secrets(directory)
    assert found is not None
    assert (found.journal_replicas, "redis-broker" in layout.port_names(found)) == (0, True)
    assert secrets["redis-journal"] == "kept"
    assert secrets["redis-broker"]


def test_sentinels_keep_the_primary_and_the_fence_over_a_restart(tmp_path: Path) -> None:
    """After a failover to the second server, and with other ports than before."""
    directory, before = Directory(tmp_path), with_ports(Layout(journal_replicas=1))
    sentinels.write(directory, before, before, SECRETS)
    file = directory["sentinel-2"] / "sentinel.conf"
    assert f"sentinel monitor journal 127.0.0.1 {before.ports['redis-journal']} 2\n" in file.read_text()
    known = f"sentinel monitor journal 127.0.0.1 {before.ports['redis-journal-2']} 2\nsentinel config-epoch journal 7\n"
    file.write_text(f"{known}sentinel down-after-milliseconds journal 2000000000\n")
    now = replace(before, ports={name: port + 1000 for name, port in before.ports.items()})
    sentinels.write(directory, now, before, SECRETS)
    for name in now.sentinels:
        text = (directory[name] / "sentinel.conf").read_text()
        assert f"sentinel monitor journal 127.0.0.1 {now.ports['redis-journal-2']} 2\n" in text
        assert "sentinel down-after-milliseconds journal 2000000000\n" in text


def test_scaled_counts_are_planned(tmp_path: Path) -> None:
    wanted = with_ports(Layout(scale={"api": 3, "worker": 2, "spill-worker": 0}))
    specs = planner(wanted, Directory(tmp_path)).specs()
    assert [spec.name for spec in specs if spec.role == "worker"] == [f"worker-{s}-{i}" for s in (0, 1) for i in (1, 2)]
    assert sum(spec.role == "api" for spec in specs) == 3
    assert not [spec for spec in specs if spec.role == "spill-worker"]


def test_workers_of_a_single_shard_are_planned(tmp_path: Path) -> None:
    wanted = with_ports(Layout(scale={"api": 2, "worker": 1, "spill-worker": 1, "worker-0": 3}))
    workers = [spec for spec in planner(wanted, Directory(tmp_path)).specs() if spec.role == "worker"]
    assert [(spec.name, spec.shard) for spec in workers] == [
        ("worker-0-1", 0),
        ("worker-0-2", 0),
        ("worker-0-3", 0),
        ("worker-1-1", 1),
    ]
    assert [spec.metrics_port for spec in workers] == [wanted.ports[spec.name] for spec in workers]


def test_processes_of_tally_wait_for_migrations_only_where_tables_are_not_known_to_be_right(tmp_path: Path) -> None:
    plan_of = planner(with_ports(Layout()), Directory(tmp_path))
    for migrated in (False, True):
        api = next(spec for spec in replace(plan_of, migrated=migrated).specs() if spec.role == "api")
        assert {"databases-0", "databases-1", "redis-journal"} <= set(api.after)
        assert ("set-up" in api.after) is not migrated


def test_schema_changes_with_a_migration(tmp_path: Path) -> None:
    (tmp_path / "app" / "migrations").mkdir(parents=True)
    before = prepare.schema(tmp_path)
    (tmp_path / "app" / "migrations" / "0001_initial.py").write_text("x = 1")
    assert prepare.schema(tmp_path) != before


@pytest.mark.parametrize(
    ("said", "pid", "failing"),
    [
        (None, None, False),
        ("initializing new cluster", None, False),
        ("creating replica", None, False),
        ("stopped", None, True),
        ("starting", None, True),
        ("starting", 7, False),
        ("start failed", 7, True),
        ("running", 7, False),
    ],
)
def test_a_server_whose_data_are_being_made_does_not_fail(
    tmp_path: Path, said: str | None, pid: int | None, failing: bool
) -> None:
    node = Node(0, 1, tmp_path, port=1, patroni_port=2, patroni_password="")
    node.said, node.pid = said, pid
    assert node.failing is failing


def test_only_patroni_leaves_root_behind(tmp_path: Path) -> None:
    specs = planner(with_ports(Layout()), Directory(tmp_path)).specs()
    assert {spec.role for spec in specs if spec.argv[0] == "unshare"} == {"patroni"}
    argv = next(spec for spec in specs if spec.role == "patroni").argv
    assert argv[2:5] == (sys.executable, "-m", "cluster.guarded_patroni")


def test_workers_know_their_name_and_their_metrics_port(tmp_path: Path) -> None:
    wanted = with_ports(Layout())
    worker = next(spec for spec in planner(wanted, Directory(tmp_path)).specs() if spec.name == "worker-1-1")
    assert worker.environment["TALLY_NODE_ID"] == "worker-1-1"
    assert worker.environment["TALLY_METRICS_PORT"] == str(wanted.ports["worker-1-1"]) == str(worker.metrics_port)
    assert worker.shard == 1
    assert "shard-1" in worker.argv


def test_workers_are_named_for_their_process_and_their_host(tmp_path: Path) -> None:
    for spec in planner(with_ports(Layout()), Directory(tmp_path)).specs():
        if spec.role in ("worker", "spill-worker"):
            assert spec.argv[spec.argv.index("-n") + 1] == f"{spec.name}@%h"


def test_settings_say_how_many_tasks_a_worker_of_a_shard_runs_at_once(tmp_path: Path) -> None:
    specs = {spec.name: spec.argv for spec in planner(with_ports(Layout()), Directory(tmp_path)).specs()}
    assert not {"-c", "--concurrency", "--prefetch-multiplier"} & set(specs["worker-0-1"])
    assert specs["spill-worker-1"][specs["spill-worker-1"].index("-c") + 1] == "8"


def test_settings_of_other_programs_are_not_inherited() -> None:
    environ = {"PATH": "/bin", "PGHOST": "x", "PATRONI_NAME": "x", "UVICORN_PORT": "1", "TALLY_LOG_LEVEL": "DEBUG"}
    kept = plan.base_environment(environ, Path("/d"))
    assert kept == {"PATH": "/bin", "TALLY_LOG_LEVEL": "DEBUG", plan.MARK: "/d", "PYTHONUNBUFFERED": "1"}


# Lanes


def test_a_worker_applies_the_lanes_that_it_holds_now() -> None:
    now = 1_000_000
    leases = [
        Lease(Lane(0, 3), "worker-0-1@host#1a", "1000001"),
        Lease(Lane(0, 0), "worker-0-1@host#2b", "9000000"),
        Lease(Lane(0, 1), "worker-0-2@host#3c", "1000001"),
        Lease(Lane(0, 2), "worker-0-2@host#4d", "1000000"),  # has run out
        Lease(Lane(1, 0), None, "9000000"),  # a task was sent
        Lease(Lane(1, 1), None, None),
        Lease(Lane(1, 2), "worker-1-1@host#5e", None),
        Lease(Lane(1, 3), "worker-1-1@host#5e", "soon"),
        Lease(Lane(1, 4), "worker-1-7@b.elsewhere.net#6f", "9000000"),
        Lease(Lane(1, 5), "by hand", "9000000"),
    ]
    assert lanes.by_worker(leases, now) == {"worker-0-1": [0, 3], "worker-0-2": [1], "worker-1-7": [4], "by hand": [5]}


def test_status_has_the_lanes_of_its_workers(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "role": "worker",
        "shard": 0,
        "pid": 1,
        "port": None,
        "metrics_port": 2,
        "state": "running",
        "restarts": 0,
        "create_time": 1.0,
    }
    now = state.State(url="http://u", processes=[{"name": "worker-0-1", **row}, {"name": "worker-0-2", **row}])
    applied = {"worker-0-1": [0, 3], "worker-elsewhere": [1]}
    first, second = now.public(applied)["processes"]
    assert (first["lanes"], second["lanes"]) == ([0, 3], [])
    assert tuple(first) == (*state.ROW, "lanes")
    Console().table(now.processes, lanes=applied)
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["lanes", "3", "0"]


def test_status_says_which_replica_streams(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"role": "postgres", "shard": 0, "pid": 1, "port": 5, "metrics_port": None, "restarts": 0, "create_time": 1.0}
    rows = [
        {"name": "postgres-0-1", **row, "state": "running", "streaming": False},
        {"name": "postgres-0-2", **row, "state": "running", "streaming": True},
        {"name": "postgres-0-3", **row, "state": "running", "streaming": False},
        {"name": "postgres-0-4", **row, "state": "backoff", "streaming": True},
        {"name": "postgres-0-5", **row, "state": "running"},  # of a version that did not say
    ]
    now = state.State(processes=rows, primaries={"0": 1})
    told = [(one["state"], one["mode"], one["streaming"]) for one in now.public({})["processes"]]
    assert told == [
        ("running", "primary", None),
        ("running", "replica", True),
        ("running", "replica", False),
        ("backoff", "replica", False),
        ("running", "replica", False),
    ]
    assert tuple(now.public({})["processes"][0])[: len(state.ROW)] == state.ROW
    Console().table(now.processes, now.primary_names)
    said = [line.split(" 5 ")[1].strip()[:-1].strip() for line in capsys.readouterr().out.splitlines()[1:]]
    assert said == ["running", "streaming", "not streaming", "backoff", "not streaming"]


def test_sixteen_lanes_fit_into_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "name": "spill-worker-1",
        "shard": 10,
        "pid": 1234567,
        "port": 20000,
        "metrics_port": 20000,
        "state": "starting",
        "restarts": 99,
    }
    Console().table([{**row, "role": "postgres"}], lanes={"spill-worker-1": range(16)})
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.rstrip().endswith("lanes")
    assert line.endswith(", ".join(map(str, range(16))))


def test_lanes_of_a_cluster_whose_redis_does_not_answer_are_unknown(tmp_path: Path) -> None:
    directory = Directory(tmp_path)
    assert lanes.read(directory) == {}
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        layout.save(directory, Layout(ports={"redis-journal": silent.getsockname()[1]}))
        began = time.monotonic()
        assert lanes.read(directory) == {}
        assert time.monotonic() - began < 3
    assert lanes.read(directory) == {}
    (tmp_path / "layout.json").write_text("{")
    assert lanes.read(directory) == {}


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
    assert f":{wanted.ports['redis-broker']}/" in values["TALLY_BROKER_URL"]


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
    assert all(re.fullmatch(r"host \S+ [\w,]+ 127\.0\.0\.1/32 scram-sha-256", rule) for rule in config["pg_hba"])


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
    text = configs.nginx(wanted, Directory(tmp_path), SECRETS["proxy"], as_root=False)
    ports = [str(wanted.ports[f"api-{i}"]) for i in (1, 2)]
    assert re.findall(r"server 127\.0\.0\.1:(\d+) max_fails=1 fail_timeout=1s;", text) == ports
    assert not re.search(r"@[A-Z_]+@", text)
    assert "non_idempotent;" not in text
    assert "user root;" in configs.nginx(wanted, Directory(tmp_path), SECRETS["proxy"], as_root=True)


def test_nginx_passes_so_many_writes_at_once_to_each_api_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Directory(tmp_path)
    directory.prepare()
    monkeypatch.setenv("TALLY_MAX_SINGLES", "7")
    monkeypatch.setenv("TALLY_MAX_BODIES", "3")
    prepare.planner(directory, Asked(port=0))
    text = (directory["nginx"] / "nginx.conf").read_text()
    for upstream, limits in (("api", []), ("api_singles", ["7", "7"]), ("api_bodies", ["3", "3"])):
        block = text.partition(f"upstream {upstream} {{")[2].partition("}")[0]
        assert len(re.findall(r"server ", block)) == 2
        assert re.findall(r"max_conns=(\d+) ", block) == limits


def test_nginx_takes_bodies_as_large_as_the_api_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default = Config.model_fields["max_body_bytes"].default
    directory = Directory(tmp_path)
    directory.prepare()
    monkeypatch.delenv("TALLY_MAX_BODY_BYTES", raising=False)
    for given, limit in ((None, default), ("70000", 70000)):
        if given:
            monkeypatch.setenv("TALLY_MAX_BODY_BYTES", given)
        prepare.planner(directory, Asked(port=0))
        text = (directory["nginx"] / "nginx.conf").read_text()
        assert re.findall(r"client_(?:max_body_size|body_buffer_size) (\w+);", text) == [str(limit)] * 2
    monkeypatch.setenv("TALLY_MAX_BODY_BYTES", "16m")
    with pytest.raises(ClusterError, match="TALLY_MAX_BODY_BYTES: '16m' is no whole number"):
        prepare.planner(directory, Asked(port=0))


def test_nginx_limits_clients_as_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in fields(NginxSettings):
        default = Config.model_fields[one.name].default
        assert one.default == (tuple(default) if isinstance(default, list) else default), one.name
    directory = Directory(tmp_path)
    directory.prepare()
    monkeypatch.setenv("TALLY_CONNECTIONS_PER_ADDRESS", "7")
    monkeypatch.setenv("TALLY_TRUSTED_PROXIES", '["192.0.2.0/24", "2001:db8::1"]')
    prepare.planner(directory, Asked(port=0))
    text = (directory["nginx"] / "nginx.conf").read_text()
    assert "limit_conn addresses 7;" in text
    assert re.findall(r"set_real_ip_from (\S+);", text) == ["192.0.2.0/24", "2001:db8::1/128"]
    monkeypatch.setenv("TALLY_ACCESS_LOG_PERCENT", "101")
    with pytest.raises(ClusterError, match="TALLY_ACCESS_LOG_PERCENT: 101 is not from 0 to 100"):
        prepare.planner(directory, Asked(port=0))
    monkeypatch.setenv("TALLY_ACCESS_LOG_PERCENT", "7")
    monkeypatch.setenv("TALLY_TRUSTED_PROXIES", '"everybody"')
    with pytest.raises(ClusterError, match="TALLY_TRUSTED_PROXIES: '\"everybody\"' is no list of networks"):
        prepare.planner(directory, Asked(port=0))


def test_errors_of_nginx_are_problem_documents(tmp_path: Path) -> None:
    text = configs.nginx(with_ports(Layout()), Directory(tmp_path), SECRETS["proxy"], as_root=False)
    documents = [json.loads(body) for body in re.findall(r"return \d+ '(.*)';", text)]
    assert {document["status"] for document in documents} >= {400, 413, 414, 431, 503}
    assert all(set(document) == {"type", "title", "status", "detail", "request_id"} for document in documents)


# Options


@pytest.mark.parametrize(
    "argv",
    [
        *(["up", "--shards", "0"], ["up", "--api", "-1"], ["up", "--broker", "http://x"], []),
        *(["scale", text] for text in ("api=0", "x=1", "worker-0=33", "worker-0=-1", "worker-0=", "worker-0", "=1")),
        *(
            ["scale", text]
            for text in ("worker-x=1", "worker-=1", "worker-00=1", "worker-0-1=1", "api-1=1", "spill-worker-1=1")
        ),
    ],
)
def test_bad_options_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(argv)


# Logs


def test_a_log_that_has_grown_is_put_aside_while_its_program_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "LOG_BYTES", 10)
    directory = Directory(tmp_path)
    directory.logs.mkdir()
    log, small = directory.log("api-1"), directory.log("api-2")
    small.write_text("short")
    with log.open("ab", buffering=0) as program:
        program.write(b"more than ten bytes\n")
        prepare.rotate_all(directory)
        program.write(b"rest\n")
        prepare.rotate_all(directory)
    assert (log.read_text(), log.with_suffix(".log.1").read_text()) == ("rest\n", "more than ten bytes\n")
    assert small.read_text() == "short"
    assert not small.with_suffix(".log.1").exists()
    assert last_line(log, since=20) == "rest", "the place of before is behind its end"


def test_nginx_tells_its_secret_and_hides_metrics(tmp_path: Path) -> None:
    wanted, directory = with_ports(Layout()), Directory(tmp_path)
    text = configs.nginx(wanted, directory, SECRETS["proxy"], as_root=False)
    assert f'proxy_set_header X-Tally-Proxy "{SECRETS["proxy"]}";' in text
    assert configs.environment(wanted, directory, SECRETS)["TALLY_PROXY_SECRET"] == SECRETS["proxy"]
    assert "include doors*.conf;" in text
    doors = configs.doors(wanted, directory, SECRETS["metrics"])
    assert not re.search(r"@[A-Z_]+@", doors)
    assert re.findall(r"listen 127\.0\.0\.1:(\d+);", doors) == [str(wanted.ports[name]) for name in ("etcd", "flower")]


def test_a_directory_too_deep_for_sockets_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"too long for Unix sockets.*--dir"):
        Directory(tmp_path / ("d" * 100)).prepare()


def test_a_directory_that_others_could_enter_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    Directory(tmp_path).prepare()
    assert tmp_path.stat().st_mode & 0o777 == 0o700


# Upgrade


def test_an_upgrade_replaces_every_role_readers_of_the_journal_first_and_clients_before_what_they_use(
    tmp_path: Path,
) -> None:
    specs = planner(with_ports(Layout(journal_replicas=1, archive=str(tmp_path))), Directory(tmp_path)).specs()
    order = upgrade.in_order({spec.name: spec.role for spec in specs})
    assert sorted(order) == sorted(spec.name for spec in specs)
    place = {name: index for index, name in enumerate(order)}
    assert max(place["worker-0-1"], place["spill-worker-1"]) < place["api-1"]
    assert place["api-2"] < place["patroni-0-1"] < place["redis-journal"] < place["etcd"]


def test_a_change_of_the_product_is_none_of_the_programs_and_the_other_way_round(tmp_path: Path) -> None:
    """So an upgrade of Tally's code alone leaves the databases alone."""
    for name in (*release.PRODUCT, "cluster"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "code.py").write_text("x = 1\n")
    program = tmp_path / "program"
    found = replace(PROGRAMS, etcd=program, redis=program, nginx=program, postgres_bin=tmp_path)
    program.touch()
    (tmp_path / "postgres").touch()

    def digests(**settings: str) -> release.Release:
        return release.release(tmp_path, found, settings)

    first = digests()
    assert first == digests(HOME="/elsewhere")
    assert first.programs == digests(TALLY_LANES="8").programs
    assert first.product != digests(TALLY_LANES="8").product
    (tmp_path / "counters" / "code.py").write_text("x = 2\n")
    second = digests()
    assert (first.product != second.product, first.programs) == (True, second.programs)
    program.write_text("newer")
    third = digests()
    assert (second.product, second.programs != third.programs) == (third.product, True)
    assert third.of("api") == third.product != third.of("patroni") == third.programs


def test_a_state_with_more_fields_than_this_version_knows_is_read(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"phase": "ready", "of_a_later_version": 1}))
    assert state.read(Directory(tmp_path)).phase == "ready"


# Destroy

# Ends at the second signal, which asks a supervisor to kill everything, or a second after the first one. Its exit status is
# the number of signals.
SUPERVISOR = """
import signal, sys, time
signals = []
signal.signal(signal.SIGTERM, lambda *_: signals.append(time.monotonic()))
print(flush=True)
while len(signals) < 2 and not (signals and time.monotonic() - signals[0] > 1):
    time.sleep(0.01)
sys.exit(len(signals))
"""


@pytest.mark.parametrize(("archive", "signals"), [("", 2), ("/archive", 1)], ids=["without an archive", "with one"])
def test_a_cluster_is_killed_before_its_data_are_deleted_unless_it_has_an_archive(
    tmp_path: Path, archive: str, signals: int
) -> None:
    """An archive is kept, and is to have all of it."""
    directory = Directory(tmp_path / "cluster")
    directory.prepare()
    layout.save(directory, replace(with_ports(Layout()), archive=archive))
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout
        supervisor.stdout.readline()
        known = {"pid": supervisor.pid, "create_time": processes.create_time(supervisor.pid)}
        state.write(directory, state.State(supervisor=known))
        assert run(["destroy", "--yes", "--dir", str(directory.root)]) == 0
    assert supervisor.returncode == signals
    assert not directory.root.exists()
