"""The Compose files as they stand, without an engine. What they do is for `make deploy-test`."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.http.request import validate_host

from cluster import ClusterError, alive, configs, container, programs
from cluster.argv import ANSWER_SECONDS
from cluster.configs import Front, NginxSettings
from counter_project.config import Config
from deploy.test.variants import VARIANTS
from sharding import connection_budget
from sharding.connection_budget import Fleet
from tests.support.commands import ROOT

PRODUCTION = ROOT / "docker-compose.production.yml"
MADE_BY_SCRIPT = ROOT / "deploy" / "make-secrets"
STATEFUL = re.compile("db-|etcd-|journal-|sentinel-")
_VARIABLE = re.compile(r"\$\{([A-Z_0-9]+):-([^}]*)\}")
_IF_SET = re.compile(r"\$\{[A-Z_]+:\+[^}]*\}")


class Loader(yaml.SafeLoader):
    """Compose's tags mean nothing here."""


for tag in ("!reset", "!override"):
    Loader.add_constructor(tag, lambda *_: None)


def production() -> dict[str, Any]:
    """The file with the default of every variable in its place."""
    file: dict[str, Any] = yaml.load(_VARIABLE.sub(r"\2", _IF_SET.sub("", PRODUCTION.read_text())), Loader)
    return file


FILE = production()
SERVICES: dict[str, Any] = FILE["services"]
ONCE = {"migrate", "begin"}
UNCHECKED = {*ONCE, "nginx-exporter"}  # whose image has no program that could ask


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_bounded_and_confined(name: str) -> None:
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) <= 2
    assert re.fullmatch("[0-9]+[mg]", limits["memory"])
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["read_only"]
    assert service["init"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["stop_grace_period"]
    assert service["healthcheck"].get("disable") if name in UNCHECKED else service["healthcheck"]["test"]
    assert not {"container_name", "privileged", "user"} & service.keys()
    assert "TALLY_NODE_ID" not in service.get("environment", {})


def test_limits_are_variables() -> None:
    for name, service in yaml.load(PRODUCTION.read_text(), Loader)["services"].items():
        limits = service["deploy"]["resources"]["limits"]
        assert all(_VARIABLE.fullmatch(value) for value in limits.values()), name


def test_only_nginx_is_published_and_only_its_network_is_open() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["nginx"]
    assert [name for name, network in FILE["networks"].items() if not network.get("internal")] == ["frontend"]
    assert [name for name, service in SERVICES.items() if "frontend" in service.get("networks", [])] == ["nginx"]
    _, operators = SERVICES["nginx"]["ports"]
    assert operators.startswith("127.0.0.1:")


def test_networks_can_be_moved_and_do_not_overlap() -> None:
    text = PRODUCTION.read_text()
    subnets = [config["subnet"] for one in FILE["networks"].values() for config in one["ipam"]["config"]]
    assert len(set(subnets)) == len(subnets) == 4
    for name in ("FRONTEND", "BACKEND", "WORKER", "DATA"):
        assert f"${{{name}_NET:-" in text
    fixed = [
        network["ipv4_address"]
        for service in SERVICES.values()
        if isinstance(networks := service.get("networks"), dict)
        for network in networks.values()
    ]
    assert len(set(fixed)) == len(fixed)
    assert all(int(address.rpartition(".")[2]) < 128 for address in fixed), (
        "addresses from 128 on are given out by Docker"
    )


def test_no_secret_has_a_value_in_the_files(tmp_path: Path) -> None:
    """Every secret is a file that the script makes, and nothing that a process gets as a password stands in the files."""
    subprocess.run([MADE_BY_SCRIPT, tmp_path], check=True)
    made = {path.name for path in tmp_path.iterdir()}
    build = {"pip", "ca"}
    wanted = {name for name in FILE["secrets"] if name not in build}
    assert wanted <= made
    assert {name for name in build if FILE["secrets"][name]["file"] != "/dev/null"} == set()
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == wanted
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|TOKEN|KEY|_URL$", name.removesuffix("_FILE")) and "://" not in str(value):
                assert str(value).startswith("/run/secrets/"), name


def test_each_secret_is_made_once_and_for_the_owner(tmp_path: Path) -> None:
    home = tmp_path / "secrets"
    subprocess.run([MADE_BY_SCRIPT, home], check=True)
    (home / "broker-url").chmod(0o644)
    (home / "broker-url").write_text("amqp://an-own-broker")
    before = {path.name: path.read_text() for path in home.iterdir()}
    subprocess.run([MADE_BY_SCRIPT, home], check=True)
    assert {path.name: path.read_text() for path in home.iterdir()} == before
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    passwords = [value for name, value in before.items() if re.fullmatch("[0-9a-f]{64}\n", value)]
    assert len(set(passwords)) == len(passwords) >= 14
    assert json.loads(before["redis-passwords"])["redis://cache:6379"] == before["cache"].strip()
    for name in ("etcd", "tls"):
        subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", home / "authority", home / f"{name}-cert"], check=True
        )


def test_the_settings_are_settings() -> None:
    """Tally refuses to start with one that it does not know."""
    known = {f"TALLY_{field.upper()}" for field in Config.model_fields}
    for name in ("app", "worker", "nginx"):
        given = {one.removesuffix("_FILE") for one in SERVICES[name]["environment"] if one.startswith("TALLY_")}
        assert given <= known
    (text,) = {SERVICES[name]["environment"]["TALLY_SHARDS"] for name in ("app", "worker", "beat", "migrate")}
    named = {node["host"] for shard in json.loads(text) for node in shard["nodes"]}
    assert named == {SERVICES[name]["environment"]["ADDRESS"] for name in SERVICES if name.startswith("db-")}


def test_the_connections_of_five_api_processes_and_ten_workers_fit() -> None:
    given = SERVICES["app"]["environment"]
    connection_budget.check(
        Fleet(
            api=5,
            workers=[10, 10],  # each applies both shards
            spill_workers=1,
            pool_size=int(given["TALLY_DATABASE_POOL_SIZE"]),
            worker_concurrency=int(given["TALLY_WORKER_CONCURRENCY"]),
            max_connections=int(SERVICES["db-0-1"]["environment"]["MAX_CONNECTIONS"]),
        )
    )


def test_what_keeps_data_has_a_volume_of_its_own() -> None:
    volumes = [
        volume
        for name, service in SERVICES.items()
        if STATEFUL.match(name)
        for volume in service["volumes"]
        if not volume.endswith(":ro")
    ]
    assert len(volumes) == len(set(volumes)) == sum(bool(STATEFUL.match(name)) for name in SERVICES)
    assert {volume.partition(":")[0] for volume in volumes} <= FILE["volumes"].keys()


def test_processes_have_longer_to_stop_than_they_need() -> None:
    seconds = {name: int(service["stop_grace_period"].removesuffix("s")) for name, service in SERVICES.items()}
    assert seconds["app"] > ANSWER_SECONDS
    assert seconds["nginx"] > 60  # proxy_read_timeout
    assert min(seconds[name] for name in seconds if name.startswith("db-")) >= 60


def test_the_roles_exist() -> None:
    for name, service in SERVICES.items():
        if service["image"].startswith(("tally:", "tally-")) and not name.startswith("etcd-"):
            assert service["command"][0] in container.ROLES


def test_swarm_has_what_keeps_no_data() -> None:
    file = yaml.safe_load((ROOT / "deploy" / "swarm.yml").read_text())
    known = {f"TALLY_{field.upper()}" for field in Config.model_fields}
    for name, service in file["services"].items():
        assert service["command"][0] in container.ROLES
        assert {one.removesuffix("_FILE") for one in service["environment"]} <= known
        assert {"cpus", "memory"} <= service["deploy"]["resources"]["limits"].keys()
        assert not any("/srv/data" in volume for volume in service.get("volumes", ()))
        assert set(service["secrets"]) <= {*file["secrets"]} <= {*FILE["secrets"]}
        assert ("ports" in service) == (name == "nginx")
    assert file["services"]["beat"]["deploy"]["replicas"] == 1
    assert file["services"]["app"]["deploy"]["endpoint_mode"] == "dnsrr"


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker")
@pytest.mark.parametrize(
    "options", [["-f", str(PRODUCTION), "--profile", "*"], ["--env-file", "deploy/followers.env"], []]
)
def test_compose_reads_the_files(options: list[str]) -> None:
    assert {"nginx", "app", "worker", "db-0-1", "db-1-1"} <= composed(*options)["services"].keys()


def composed(*options: str, **variables: str) -> dict[str, Any]:
    """What Compose makes of the files, without a word of complaint."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("there is no Compose")
    command = ["docker", "compose", *options, "config", "--format", "json"]
    environment = {**os.environ, "SECRETS": "/secrets", **variables}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker")
def test_data_tls_is_for_servers_clients_and_checks_alike() -> None:
    found = composed("-f", str(PRODUCTION), "--profile", "*", DATA_TLS="require")
    services, secrets = found["services"], found["secrets"]
    for name, service in services.items():
        if name.startswith(("db-", "journal-", "sentinel-", "cache", "broker")) or "TALLY_SHARDS" in service.get(
            "environment", {}
        ):
            assert service["environment"]["TLS"] == "require", name
            assert "authority" in {one["source"] for one in service["secrets"]}, name
        if "DATA_SOURCE_URI" in service.get("environment", {}):
            assert service["environment"]["DATA_SOURCE_URI"].endswith("sslmode=require")
    assert all(secrets[f"{name}-url"]["file"] == f"/secrets/{name}-url-tls" for name in ("journal", "cache", "broker"))
    for name in ("cache", "broker", "journal-1", "journal-2"):
        assert services[name]["healthcheck"]["test"][5].startswith("rediss://")


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker")
def test_rabbitmq_takes_the_brokers_place() -> None:
    found = composed("-f", str(PRODUCTION), "-f", "deploy/rabbitmq.yml")
    broker = found["services"]["broker"]
    assert broker["image"] == "rabbitmq:4"
    assert not {"build", "command", "volumes"} & {name for name, value in broker.items() if value}
    assert [one["source"] for one in broker["secrets"]] == ["rabbitmq-conf"]
    assert found["secrets"]["broker-url"]["file"] == "/secrets/broker-url-rabbitmq"


@pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker")
@pytest.mark.parametrize("name", VARIANTS)
def test_compose_reads_the_variants_that_the_deployment_test_starts(name: str) -> None:
    shape = VARIANTS[name].shape
    options = [word for file in shape.files for word in ("-f", file)]
    options += ["--env-file", shape.env_file] if shape.env_file else []
    bases = {f"{variable}_IMAGE": f"base/{target}" for variable, target in shape.bases.items()}
    services = composed(*options, **shape.environment, **bases)["services"]
    assert set(bases.values()) <= {one["image"] for one in services.values()}
    assert not any("grafana" in one["image"] for one in services.values())
    assert len([one for one in services if one.startswith("db-")]) == {"small": 2, "followers": 7}.get(name, 4)


def test_each_shard_may_have_workers_of_its_own() -> None:
    shards = json.loads(SERVICES["worker"]["environment"]["TALLY_SHARDS"])
    commands = [SERVICES[f"worker-{shard}"]["command"] for shard in range(len(shards))]
    assert commands == [["worker", str(shard)] for shard in range(len(shards))]
    assert {tuple(SERVICES[f"worker-{shard}"]["profiles"]) for shard in range(len(shards))} == {("worker-a-shard",)}


def test_nginx_shows_its_figures_to_its_exporter_alone() -> None:
    """On a port that is not published."""
    port = container.FIGURES_PORT
    assert f"listen {port};" in container.FIGURES_DOOR
    assert not any(str(port) in published for published in SERVICES["nginx"]["ports"])
    assert SERVICES["nginx-exporter"]["command"] == [f"--nginx.scrape-uri=http://nginx:{port}/stub_status"]
    assert set(SERVICES["nginx-exporter"]["networks"]) <= set(SERVICES["nginx"]["networks"])
    jobs = yaml.safe_load((ROOT / "monitoring" / "production.yml").read_text())["scrape_configs"]
    (job,) = (job for job in jobs if job["job_name"] == "nginx")
    assert job["dns_sd_configs"][0]["names"] == ["nginx-exporter"]


def test_the_nginx_of_the_wheel_has_no_figures() -> None:
    """When it has, the local cluster can show them: its panels are empty there."""
    assert not container.has_figures(str(programs.find().nginx))


def test_nginx_follows_the_service() -> None:
    front = Front("listen 8080;", {"app:8000": "resolve max_fails=1"}, resolver="127.0.0.11 valid=1s")
    text = configs.nginx_before(front, Path("/srv/static"), "s", NginxSettings(max_bodies=7))
    assert "server app:8000 max_conns=7 resolve max_fails=1;" in text
    zones = re.findall("zone (api[a-z_]*) 256k;", text)
    assert zones == ["api", "api_singles", "api_bodies"]
    assert text.count("resolver 127.0.0.11 valid=1s;") == 3
    assert not re.findall("@[A-Z_]+@", text)


@pytest.mark.parametrize(
    ("text", "servers"),
    [
        ("search a.b\nnameserver 127.0.0.11\noptions ndots:0\n", "127.0.0.11"),
        ("# nameserver 9.9.9.9\nnameserver 10.96.0.10\nnameserver fd00::a\n", "10.96.0.10 [fd00::a]"),
    ],
)
def test_nginx_asks_the_servers_of_its_container(text: str, servers: str) -> None:
    assert container.resolver(text) == f"{servers} valid=1s ipv6=off"


@pytest.mark.parametrize(
    ("given", "first"), [('["counts.example.org", "127.0.0.1"]', "counts.example.org"), ("", "127.0.0.1")]
)
def test_an_api_process_answers_to_its_own_address(given: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus asks by it; otherwise Django refuses with 400."""
    monkeypatch.setattr(os, "environ", {"TALLY_ALLOWED_HOSTS": given})
    container.api()
    hosts = json.loads(os.environ["TALLY_ALLOWED_HOSTS"])
    assert hosts[0] == first
    address = socket.gethostbyname(socket.gethostname())
    assert validate_host(address, hosts)
    assert not validate_host("10.9.9.9", hosts)


def test_without_a_dns_server_nginx_does_not_start() -> None:
    with pytest.raises(ClusterError, match="no nameserver"):
        container.resolver("search a.b\n")


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port on which somebody answers each connection with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(request.param)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


@pytest.mark.parametrize(
    ("answering", "scheme", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", "http", 0),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "http", 1),
        (b"", "http", 1),
        (b"+OK\r\n+PONG\r\n", "redis", 0),
        (b"+OK\r\n-LOADING\r\n", "redis", 1),
    ],
    indirect=["answering"],
)
def test_a_health_check_says_whether_a_process_works(answering: int, scheme: str, status: int) -> None:
    assert alive.main(f"{scheme}://127.0.0.1:{answering}") == status


def test_a_health_check_without_an_answer_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert alive.main(f"tcp://127.0.0.1:{port}") == 1
