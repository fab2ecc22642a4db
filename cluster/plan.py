"""The plan: every process that a layout asks for, with its command, its environment, what it waits for and how it ends.

Pure: a layout and the places of programs in, `Spec`s out. PostgreSQL is not in it: Patroni starts and stops that.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sharding.roles import API, WORKER

from . import argv, monitoring, probes
from .argv import ANSWER_SECONDS
from .layout import FLOWER_USER, MONITORING_USER, PROJECT, Directory, Layout
from .programs import Programs
from .redis import LOCAL, Address
from .release import Release

# Stages of a stop, first to last: new traffic, what makes work, what does it, what keeps it.
STOP_STAGES = (
    ("nginx",),
    ("api",),
    ("beat", "flower", "disks", "prometheus", "grafana"),
    ("worker", "spill-worker"),
    ("patroni", "sentinel"),
    ("redis-journal", "redis-cache", "redis-broker", "etcd"),
    ("journal-archive",),
)
# Variables by which the programs would take settings that are not this cluster's.
FOREIGN = ("PATRONI_", "PG", "ETCD_", "UVICORN_", "WEB_CONCURRENCY", "CELERY_", "BROKER_", "FLOWER_", "NGINX", "GF_")
MARK = "TALLY_CLUSTER_DIR"  # in the environment of every process of a cluster, so that a leftover is known


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One process to keep running. `after`: names of the processes and steps that must be ready first."""

    name: str
    role: str
    argv: tuple[str, ...]
    ready: probes.Probe
    after: tuple[str, ...] = ()
    shard: int | None = None
    port: int | None = None
    metrics_port: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = PROJECT
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 10.0
    start_seconds: float = 90.0  # within which it must be ready when the cluster starts
    release: str = ""  # a digest of what it is started with


@dataclass(frozen=True)
class Planner:
    """Makes the specs of one layout. `environment` is what Tally's own processes get, `base` what the others get."""

    layout: Layout
    directory: Directory
    programs: Programs
    secrets: Mapping[str, str]
    base: Mapping[str, str]
    environment: Mapping[str, str]
    own_broker: bool = True  # Celery's broker is one of the cluster's processes
    quorum: int | None = None  # the write quorum to set on every shard at the start; None leaves it as it is
    release: Release = field(default_factory=Release)
    migrated: bool = False  # the databases have this code's tables already: its processes need not wait for `set-up`

    def specs(self) -> list[Spec]:
        """Every process, in the order of the table."""
        makers: list[Spec] = [self._etcd()]
        makers += [self._patroni(shard, node) for shard, node in self.layout.nodes]
        makers += [*map(self._sentinel, self.layout.sentinels), *self._journals(), self._redis("redis-cache")]
        makers += [self._redis("redis-broker")] if self.own_broker else []
        makers += [self._journal_archive()] if self.layout.archive else []
        makers += [self._worker(s, i) for s in range(self.layout.shards) for i in range(1, self.layout.workers(s) + 1)]
        makers += [self._spill_worker(i) for i in self._numbers("spill-worker")]
        makers += [self._beat(), self._flower(), self._disks()]
        makers += [self._api(i) for i in self._numbers("api")]
        makers += [self._nginx(), *self._monitoring()]
        return [replace(spec, release=self.release.of(spec.role)) for spec in makers]

    def _numbers(self, role: str) -> range:
        return range(1, self.layout.scale[role] + 1)

    def _etcd(self) -> Spec:
        """It listens on Unix sockets alone, which stand in its working directory. nginx shows its metrics."""
        socket = self.directory.socket("etcd")
        client, peer = f"unix://{socket.name}", f"unix://{self.directory.socket('etcd-peer').name}"
        command = (
            *(str(self.programs.etcd), "--name=etcd", f"--data-dir={self.directory['etcd']}", "--log-level=warn"),
            *(f"--listen-client-urls={client}", "--advertise-client-urls=http://etcd:0"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=etcd={peer}"),
            *("--auto-compaction-mode=periodic", "--auto-compaction-retention=1h", "--snapshot-count=10000"),
        )
        return Spec(
            name="etcd",
            role="etcd",
            argv=command,
            ready=probes.Answers(socket, "/health", 200),
            metrics_port=self.layout.ports["etcd"],
            environment={"GOMAXPROCS": "1", **self.base},  # one is enough, and an idle one wakes a third less for it
            cwd=socket.parent,
        )

    def _patroni(self, shard: int, node: int) -> Spec:
        port = self.layout.ports[f"patroni-{shard}-{node}"]
        config = self.directory.patroni_config(shard, node)
        return Spec(
            name=f"patroni-{shard}-{node}",
            role="patroni",
            shard=shard,
            argv=(
                *(*self.programs.unprivileged, sys.executable, "-m", "cluster.guarded_patroni"),
                *(str(config), str(self.directory.socket("etcd"))),
            ),
            ready=probes.Answers(port, "/liveness"),
            after=("etcd", f"turn-{shard}-{node}"),
            port=port,
            metrics_port=port,
            environment={**self.base, "TALLY_METRICS_TOKEN": self.secrets["metrics"]},
            stop_seconds=60,
        )

    def _redis(self, name: str) -> Spec:
        port = self.layout.ports[name]
        return Spec(
            name=name,
            role=name,
            argv=(str(self.programs.redis), str(self.directory[name] / "redis.conf"), *self.programs.redis_options),
            ready=probes.Pongs(port, self.secrets[name]),
            port=port,
            environment=self.base,
            stop_seconds=30,
        )

    def _journals(self) -> list[Spec]:
        """The journal's one server; or, where it has replicas, each server through `journal_server`, which asks the
        Sentinels for its role and then becomes it."""
        if not self.layout.journal_replicas:
            return [self._redis("redis-journal")]
        ports, password = self.layout.ports, self.secrets["redis-journal"]
        launch = (sys.executable, "-m", "cluster.journal_server")
        asked = ("--sentinels", ",".join(str(Address(LOCAL, ports[name])) for name in self.layout.sentinels))
        server = (str(self.programs.redis), *self.programs.redis_options)
        return [
            Spec(
                name=name,
                role="redis-journal",
                argv=(
                    *(*launch, "--config", str(self.directory[f"{name}.conf"])),
                    *("--address", str(Address(LOCAL, ports[name])), *asked, *server),
                ),
                ready=probes.Pongs(ports[name], password),
                port=ports[name],
                environment={**self.base, "SENTINEL_PASSWORD": self.secrets["sentinel"]},
                stop_seconds=30,
            )
            for name in self.layout.journals
        ]

    def _sentinel(self, name: str) -> Spec:
        port = self.layout.ports[name]
        return Spec(
            name=name,
            role="sentinel",
            argv=(str(self.programs.redis), str(self.directory[name] / "sentinel.conf"), "--sentinel"),
            ready=probes.Listens(port),
            port=port,
            environment=self.base,
        )

    def _journal_archive(self) -> Spec:
        """Copies the journal's log to the archive."""
        return Spec(
            name="journal-archive",
            role="journal-archive",
            argv=(sys.executable, "-m", "cluster.journal_archive", str(self.directory.root)),
            ready=probes.Touched(self.directory["journal-archived"]),
            after=tuple(self.layout.journals),
            environment=self.base,
            stop_seconds=2,
        )

    def _worker(self, shard: int, number: int) -> Spec:
        name = f"worker-{shard}-{number}"
        return self._celery_worker(name, "worker", shard, argv.worker(name, f"shard-{shard}"))

    def _spill_worker(self, number: int) -> Spec:
        name = f"spill-worker-{number}"
        return self._celery_worker(name, "spill-worker", None, argv.spill_worker(name))

    def _celery_worker(self, name: str, role: str, shard: int | None, command: tuple[str, ...]) -> Spec:
        port = self.layout.ports[name]
        return Spec(
            name=name,
            role=role,
            shard=shard,
            argv=command,
            ready=probes.Listens(port),
            after=self._application(),
            metrics_port=port,
            environment=self._of(name, port),
            stop_seconds=20,
        )

    def _beat(self) -> Spec:
        port = self.layout.ports["beat"]
        return Spec(
            name="beat",
            role="beat",
            argv=argv.beat(str(self.directory["beat"] / "schedule")),
            ready=probes.Listens(port),
            after=self._application(),
            metrics_port=port,
            environment=self._of("beat", port),
        )

    def _flower(self) -> Spec:
        """It listens on a Unix socket. nginx asks for the password before it: Flower shows its metrics to everybody."""
        port, socket = self.layout.ports["flower"], self.directory.socket("flower")
        login = {"FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{self.secrets['flower']}"}
        return Spec(
            name="flower",
            role="flower",
            argv=argv.flower(f"--unix-socket={socket}"),
            ready=probes.Listens(socket),
            after=self._brokers(),
            port=port,
            metrics_port=port,
            environment={**self._of("flower"), **login},
            stop_seconds=5,
        )

    def _disks(self) -> Spec:
        """It watches the disks of all servers, which are on one machine here."""
        port, ports = self.layout.ports["disks"], self.layout.ports
        nodes = [(f"127.0.0.1:{ports[f'postgres-{s}-{n}']}", self.directory.node(s, n)) for s, n in self.layout.nodes]
        places = [*nodes, *((name, self.directory[name]) for name in self.layout.journals)]
        return Spec(
            name="disks",
            role="disks",
            argv=argv.manage("disks", *(f"{server}={path}" for server, path in places)),
            ready=probes.Listens(port),
            after=tuple(self.layout.journals),
            metrics_port=port,
            environment=self._of("disks", port),
        )

    def _api(self, number: int) -> Spec:
        name = f"api-{number}"
        port = self.layout.ports[name]
        return Spec(
            name=name,
            role="api",
            argv=argv.api(LOCAL, port),
            ready=probes.Answers(port, "/livez"),
            after=self._application(),
            port=port,
            metrics_port=port,
            environment=self._of(name, role=API),
            stop_seconds=ANSWER_SECONDS + 5,
        )

    def _nginx(self) -> Spec:
        port = self.layout.ports["nginx"]
        return Spec(
            name="nginx",
            role="nginx",
            argv=(str(self.programs.nginx), "-p", f"{self.directory['nginx']}/", "-c", "nginx.conf", "-e", "stderr"),
            ready=probes.Listens(port),
            after=("set-up", *(f"api-{i}" for i in self._numbers("api"))),
            port=port,
            environment=self.base,
            stop_signal=signal.SIGQUIT,
            stop_seconds=5,
        )

    def _monitoring(self) -> list[Spec]:
        """Prometheus and Grafana, those of them that are wanted and installed."""
        specs, ports, programs = [], self.layout.ports, self.programs
        if self.layout.monitoring and programs.prometheus:
            port = ports["prometheus"]
            specs.append(
                Spec(
                    name="prometheus",
                    role="prometheus",
                    argv=monitoring.prometheus(programs.prometheus, self.directory, port),
                    ready=probes.Answers(port, "/-/ready", 200, (MONITORING_USER, self.secrets["prometheus"])),
                    port=port,
                    environment={"GOMAXPROCS": "1", **self.base},
                    stop_seconds=20,
                )
            )
        if self.layout.monitoring and programs.grafana:
            port = ports["grafana"]
            specs.append(
                Spec(
                    name="grafana",
                    role="grafana",
                    argv=monitoring.grafana(programs.grafana, self.directory),
                    ready=probes.Answers(port, "/api/health", 200),
                    port=port,
                    environment=self.base,
                )
            )
        return specs

    def _application(self) -> tuple[str, ...]:
        databases = (f"databases-{shard}" for shard in range(self.layout.shards))
        redis = (*self.layout.journals, "redis-cache", *self._brokers())
        return (*redis, *databases, *(() if self.migrated else ("set-up",)))

    def _brokers(self) -> tuple[str, ...]:
        return ("redis-broker",) if self.own_broker else ()

    def _of(self, name: str, metrics_port: int | None = None, role: str = WORKER) -> dict[str, str]:
        own = {
            "TALLY_NODE_ID": name,
            "TALLY_DATABASE_USER": role,
            "TALLY_DATABASE_PASSWORD": self.secrets[role],
        }
        if metrics_port is not None:
            own["TALLY_METRICS_PORT"] = str(metrics_port)
        return {**self.environment, **own}


def base_environment(environ: Mapping[str, str], root: Path) -> dict[str, str]:
    """What every process inherits: `environ` without foreign settings, and the mark of this cluster."""
    kept = {name: value for name, value in environ.items() if not name.startswith(FOREIGN)}
    return {**kept, MARK: str(root), "PYTHONUNBUFFERED": "1"}


def stages(names: Mapping[str, str], is_last: Callable[[str], bool]) -> list[list[str]]:
    """Process names by stage of a stop, from name → role; within the Patronis those `is_last` follow the others.

    Replicas go before their primary: the other way round, a replica would be promoted just to be stopped.
    """
    result: list[list[str]] = []
    for roles in STOP_STAGES:
        members = [name for name, role in names.items() if role in roles]
        result.append([name for name in members if not is_last(name)])
        result.append([name for name in members if is_last(name)])
    return [stage for stage in result if stage]
