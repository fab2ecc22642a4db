"""`make deploy-test ARGS="--variants tls,small"`: other forms of the same images, as docs/deployment.md has them.

Each is started, takes writes until some hundred are acknowledged, is looked at, must have counted exactly, and is removed.
The images are those of an earlier `make deploy-test`.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from cluster.layout import FLOWER_USER
from deploy.test.deployment import (
    HEALTHY_SECONDS,
    PROJECT,
    DeployError,
    Deployment,
    Shape,
    attempt,
    check_nothing_left,
    compare,
    consumers,
    eventually,
    has_image,
    is_well,
    say,
)
from deploy.test.load import Load

WRITES = 500
PRODUCTION = "docker-compose.production.yml"
# The stores that answer in the clear, as a client in the container of an API process finds them.
_SPEAKS_CLEARLY = """
import contextlib, os, pathlib, socket
import psycopg
for host, port in ("cache", 6379), ("broker", 6379), ("journal-1", 6379), ("journal-2", 6379), ("sentinel-1", 26379):
    with contextlib.suppress(OSError), socket.create_connection((host, port), 5) as connection:
        connection.settimeout(5)
        connection.sendall(b"PING\\r\\n")
        if connection.recv(1) in (b"+", b"-"):
            print(host)
user, password = os.environ["TALLY_DATABASE_USER"], pathlib.Path(os.environ["TALLY_DATABASE_PASSWORD_FILE"]).read_text().strip()
for host in "db-0-1", "db-0-2", "db-1-1", "db-1-2":
    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(host=host, user=user, dbname="tally", password=password, sslmode="disable", connect_timeout=5).close()
        print(host)
"""
_STORES = {"cache", "broker", "journal-1", "journal-2", "sentinel-1", "db-0-1", "db-0-2", "db-1-1", "db-1-2"}
# By job of monitoring/production.yml. tally: two workers, the spill worker, beat and disks.
_TARGETS = {"tally": 5, "api": 2, "patroni": 4, "etcd": 3, "postgres": 4, "redis": 4}


@dataclass(frozen=True)
class Variant:
    """A form and what is looked at while it takes writes. `look` raises `DeployError`."""

    shape: Shape
    look: Callable[[Deployment, Load], None]


def is_closed(deployment: Deployment, _: Load) -> None:
    if clear := deployment.python(_SPEAKS_CLEARLY).split():
        raise DeployError(f"in the clear answer {clear}")


def wakes_by_rabbitmq(deployment: Deployment, _: Load) -> None:
    def consumed() -> bool:
        said = deployment.compose("exec", "-T", "broker", "rabbitmqctl", "-q", "list_queues", "name", "consumers")
        counts = dict(line.split() for line in said.splitlines() if line.startswith("shard-"))
        return {"shard-0", "shard-1"} <= counts.keys() and all(int(count) == 2 for count in counts.values())

    eventually("two workers consume each shard's queue", consumed, HEALTHY_SECONDS)


def has_workers_of_its_own(deployment: Deployment, _: Load) -> None:
    """Also that stores are open to who speaks in the clear: what `is_closed` sees is TLS, not a probe that fails."""

    def found() -> tuple[set[str], set[str]] | None:
        ours = consumers(deployment, 0), consumers(deployment, 1)
        return ours if all(len(one) == 1 for one in ours) else None

    first, second = eventually("a worker consumes each shard's queue", found, HEALTHY_SECONDS)
    if first == second or deployment.containers("worker"):
        raise DeployError(f"the workers of shard 0 are {first}, those of shard 1 {second}")
    if (clear := set(deployment.python(_SPEAKS_CLEARLY).split())) != _STORES:
        raise DeployError(f"without DATA_TLS only these answer in the clear: {clear}")


def is_scraped(deployment: Deployment, _: Load) -> None:
    """Every target of Prometheus is up, seen through nginx' port for operators, which asks for a password."""
    password = (deployment.secrets / "operators").read_text().strip()
    url = f"{deployment.operators_url}/prometheus/api/v1/targets?state=active"
    with httpx.Client(verify=str(deployment.secrets / "authority"), trust_env=False, timeout=10) as client:
        if (status := client.get(url).status_code) != 401:
            raise DeployError(f"without a password Prometheus answers {status}")
        client.auth = (FLOWER_USER, password)
        said = ""

        def all_are_up() -> bool:
            nonlocal said
            targets = client.get(url).raise_for_status().json()["data"]["activeTargets"]
            up = Counter(one["labels"]["job"] for one in targets if one["health"] == "up")
            said = "; ".join(f"{one['scrapeUrl']}: {one['lastError']}" for one in targets if one["health"] != "up")
            said = f"up: {dict(up)}; {said}"
            return dict(up) == _TARGETS

        try:
            eventually("every target is up", all_are_up, HEALTHY_SECONDS)
        except DeployError as error:
            raise DeployError(f"{error}: {said}") from error


def has_copies(*wanted: int) -> Callable[[Deployment, Load], None]:
    """The servers of each shard that have its data."""

    def look(_: Deployment, load: Load) -> None:
        def copied() -> bool:
            shards = load.get("/v1/shards")["results"]
            return tuple(one["copies"] for one in sorted(shards, key=lambda one: int(one["shard"]))) == wanted

        eventually(f"the shards have {wanted} copies", copied, HEALTHY_SECONDS)

    return look


VARIANTS = {
    "tls": Variant(Shape(environment={"DATA_TLS": "require"}), is_closed),
    "rabbitmq": Variant(
        Shape(files=(PRODUCTION, "deploy/rabbitmq.yml"), bases={"RABBITMQ": "rabbitmq"}), wakes_by_rabbitmq
    ),
    "worker-a-shard": Variant(
        Shape(environment={"WORKERS": "0", "COMPOSE_PROFILES": "worker-a-shard"}), has_workers_of_its_own
    ),
    "monitoring": Variant(
        Shape(
            files=(PRODUCTION, "deploy/test/without-grafana.yml"),
            environment={"COMPOSE_PROFILES": "monitoring"},
            bases={
                "PROMETHEUS": "prometheus",
                "POSTGRES_EXPORTER": "postgres-exporter",
                "REDIS_EXPORTER": "redis-exporter",
            },
        ),
        is_scraped,
    ),
    "small": Variant(Shape(files=("docker-compose.yml",), is_public=False), has_copies(1, 1)),
    "followers": Variant(
        Shape(files=("docker-compose.yml",), env_file="deploy/followers.env", is_public=False), has_copies(6, 1)
    ),
}


def go(names: Sequence[str], options: argparse.Namespace) -> bool:
    """Whether all of these do what they should; one that does not keeps no other from its turn."""
    if unknown := set(names) - VARIANTS.keys():
        say(f"there is no variant {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
        return False
    if not has_image(f"{PROJECT}:1"):
        say("run `make deploy-test` first: its images are used")
        return False
    failed = [name for name in names if not attempt(options, VARIANTS[name].shape, _test(name))]
    if failed:
        say(f"failed: {', '.join(failed)}")
    return not failed


def _test(name: str) -> Callable[[Deployment, Path], None]:
    def test(deployment: Deployment, _: Path) -> None:
        deployment.close()  # what an earlier test left
        say(name)
        began = time.monotonic()
        key = deployment.start()
        with Load(deployment.url, key, deployment.secrets / "authority") as load:
            eventually("all is well", lambda: is_well(load), HEALTHY_SECONDS)
            say(f"  up and well after {time.monotonic() - began:.0f} s")
            load.begin()
            VARIANTS[name].look(deployment, load)
            eventually(f"{WRITES} writes are acknowledged", lambda: load.accepted >= WRITES, HEALTHY_SECONDS)
            load.end()
            compare(load)
        deployment.close()
        check_nothing_left()

    return test
