"""The cluster under test: started, looked at, signalled, and asked behind its API's back.

A pid is signalled only if the supervisor's state names it and its create time is the same, or as a child of such a
process.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg
from pybreaker import CircuitRedisStorage
from redis import Redis
from redis.connection import parse_url
from redis.sentinel import Sentinel

from benchmarks.chaos import limits
from benchmarks.chaos.wire import NoAnswer, Wire
from cluster import processes, state
from cluster.layout import PROJECT, Directory
from sharding.lanes import MOST, QUEUES, Lane

STREAMING = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
LANES = "SELECT count(*) FROM apply_state"
TIMELINE = "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"


class Lease(NamedTuple):
    """Who applies a lane now. `worker` is "" after a task was sent and before its shift; `lingers`: the shift waits for
    more."""

    worker: str
    lingers: bool


class Subject:
    """A running cluster in a directory."""

    def __init__(self, directory: Path, project: Path = PROJECT) -> None:
        self.directory = Directory(directory)
        self.project = project
        lines = (directory / "env").read_text().splitlines()
        self.env: dict[str, str] = dict(line.partition("=")[::2] for line in lines if line and not line.startswith("#"))
        self.key = (directory / "api-key").read_text().strip()
        self.url = str(self.status().url)
        self.shards: list[dict[str, Any]] = json.loads(self.env["TALLY_SHARDS"])
        self.journal: Any = journal_of(self.env)
        self.broker: Any = Redis.from_url(self.env["TALLY_BROKER_URL"], socket_timeout=5, socket_connect_timeout=5)
        self.cache: Any = Redis.from_url(self.env["TALLY_CACHE_URL"], socket_timeout=1, socket_connect_timeout=1)

    @property
    def spills(self) -> bool:
        """Whether its limits are so small that increments are spilled (`limits`)."""
        return (self.directory.root / limits.MARK).exists()

    def wire(self) -> Wire:
        """A connection of a client."""
        return Wire(self.url, self.key)

    def status(self) -> state.State:
        """What `cluster status` shows."""
        return state.current(self.directory)

    def named(self, name: str) -> dict[str, Any]:
        """The row of one process."""
        return next(row for row in self.status().processes if row["name"] == name)

    def rows(self, role: str, shard: int | None = None) -> list[dict[str, Any]]:
        """Processes of a role that run now."""
        found = self.status().processes
        return [row for row in found if row["role"] == role and shard in (None, row["shard"]) and processes.known(row)]

    @contextlib.contextmanager
    def database(self, shard: int, target: str = "primary") -> Iterator[psycopg.Connection[Any]]:
        """A connection to the primary or a standby of a shard, in autocommit. Raises `psycopg.OperationalError`."""
        nodes = self.shards[shard]["nodes"]
        hosts, ports = ",".join(node["host"] for node in nodes), ",".join(str(node["port"]) for node in nodes)
        with self._connect(host=hosts, port=ports, target_session_attrs=target) as conn:
            yield conn

    @contextlib.contextmanager
    def server(self, node: Mapping[str, Any]) -> Iterator[psycopg.Connection[Any]]:
        """A connection to one server, whatever its role, in autocommit. Raises `psycopg.OperationalError`."""
        with self._connect(host=node["host"], port=node["port"]) as conn:
            yield conn

    def _connect(self, **address: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(
            **address,
            dbname=self.env["TALLY_DATABASE_NAME"],
            user=self.env["TALLY_DATABASE_USER"],
            password=self.env["TALLY_DATABASE_PASSWORD"],
            connect_timeout=2,
            tcp_user_timeout=5000,
            autocommit=True,
        )

    def queued(self, shard: int) -> int:
        """Messages in a shard's queue that no worker has taken. Raises `RedisError`."""
        return int(self.broker.llen(queue_of(shard)))

    def lanes(self) -> list[Lane]:
        """All lanes in force. Raises `psycopg.OperationalError`."""
        found = []
        for shard in range(len(self.shards)):
            with self.database(shard) as conn:
                count = conn.execute(LANES).fetchall()[0][0]
            found += [Lane(shard, number) for number in range(count)]
        return found

    def depths(self) -> dict[Lane, int]:
        """How many batches each journal has, without those that have none. Raises `RedisError`."""
        return self._counts("zcard", "positions")

    def set_aside(self) -> dict[Lane, int]:
        """How many batches of each lane were set aside, without lanes that have none. Raises `RedisError`."""
        return self._counts("hlen", "poison")

    def _counts(self, command: str, part: str) -> dict[Lane, int]:
        lanes = self._queues()
        with self.journal.pipeline(transaction=False) as pipe:
            for lane in lanes:
                getattr(pipe, command)(f"journal:{lane}:{part}")
            return {lane: int(count) for lane, count in zip(lanes, pipe.execute(), strict=True) if count}

    def leases(self) -> dict[Lane, Lease]:
        """The leases that have not run out. Raises `RedisError`."""
        lanes = self._possible_lanes()
        with self.journal.pipeline(transaction=False) as pipe:
            pipe.time()
            for lane in lanes:
                pipe.hmget(lease_key(lane), "until", "holder", "lingers")
            (seconds, microseconds), *found = pipe.execute()
        now = int(seconds) * 1_000_000 + int(microseconds)
        return {
            lane: Lease((holder or b"").decode().partition("@")[0], lingers is not None)
            for lane, (until, holder, lingers) in zip(lanes, found, strict=True)
            if until is not None and int(until) > now
        }

    def _possible_lanes(self) -> list[Lane]:
        return [Lane(shard, number) for shard in range(len(self.shards)) for number in range(MOST)]

    def _queues(self) -> list[Lane]:
        """All queues of these lanes."""
        return [lane.of(queue) for lane in self._possible_lanes() for queue in QUEUES]

    def openings(self) -> set[tuple[str, int]]:
        """The breakers of shards that were opened, each with the last time (Unix seconds). Raises `RedisError`."""
        names = [f"shard-{shard}{role}" for shard in range(len(self.shards)) for role in ("", "-replica")]
        found = self.cache.mget([f"{name}:{CircuitRedisStorage.BASE_NAMESPACE}:opened_at" for name in names])
        return {(name, int(at)) for name, at in zip(names, found, strict=True) if at is not None}

    def count(self, role: str, shard: int = 0) -> int:
        """How many processes of a role the cluster is to have; workers are counted for one shard."""
        return sum(row["role"] == role and row["shard"] in (None, shard) for row in self.status().processes)

    def scale(self, role: str, count: int) -> None:
        """`cluster scale`: another number of processes of a role; `worker` is for each shard. Raises `RuntimeError`
        with what it said."""
        try:
            _manage(self.project, "cluster", "scale", f"{role}={count}", "--dir", str(self.directory.root))
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"cluster scale {role}={count}: {error.stderr.strip()}") from error

    def replicas(self, shard: int) -> int:
        """How many replicas a shard is meant to have."""
        return len(self.shards[shard]["nodes"]) - 1

    def copies(self, shard: int) -> int:
        """How many copies a shard has now: its primary, if it answers, and the replicas that stream."""
        try:
            with self.database(shard) as conn:
                return 1 + int(conn.execute(STREAMING).fetchall()[0][0])
        except psycopg.Error:
            return 0

    def timeline(self, shard: int) -> int:
        """A shard's timeline, which is one more after each promotion. Raises `psycopg.OperationalError`."""
        with self.database(shard) as conn:
            return int(conn.execute(TIMELINE).fetchall()[0][0], 16)

    def last_copy(self, shard: int) -> str:
        """Return which server of a shard gets a commit last: its replica, or its primary if it has none."""
        return "standby" if self.replicas(shard) else "primary"

    def primary(self, shard: int) -> dict[str, Any]:
        """The row of the postmaster that takes writes now. Raises `psycopg.OperationalError`, `LookupError`."""
        return self._postgres(shard, "primary")

    def replica(self, shard: int) -> dict[str, Any]:
        """The row of a postmaster that follows. Raises `psycopg.OperationalError`, `LookupError`."""
        return self._postgres(shard, "standby")

    def _postgres(self, shard: int, target: str) -> dict[str, Any]:
        with self.database(shard, target) as conn:
            port = conn.info.port
        found = next((row for row in self.rows("postgres", shard) if row["port"] == port), None)
        if found is None:
            raise LookupError(f"no postmaster of shard {shard} at port {port}")
        return found

    def is_whole(self) -> str:
        """Return "" if every process runs, every API process answers and every replica follows; else what is missing."""
        for row in self.status().processes:
            if row["state"] != "running" or not processes.known(row):
                return str(row["name"])
        wire = self.wire()
        try:
            for _ in range(2):
                if wire.ask("GET", "/health", timeout=5).json.get("status") != "ok":
                    return "health"
            for shard in range(len(self.shards)):
                with self.database(shard) as conn:
                    streaming = conn.execute(STREAMING).fetchall()[0][0]
                    if streaming < self.replicas(shard):
                        return f"replica of shard {shard}"
        except NoAnswer:
            return "nginx"
        except psycopg.OperationalError:
            return "primary"
        finally:
            wire.close()
        return ""


def journal_of(env: Mapping[str, str], **more: Any) -> Any:
    """A client of the journal's Redis: of its primary, which the Sentinels name, if the settings have any. `more`: options
    of the client."""
    options: dict[str, Any] = {"socket_timeout": 1, "socket_connect_timeout": 1, **more}
    if not (addresses := json.loads(env.get("TALLY_JOURNAL_SENTINELS", "[]"))):
        return Redis.from_url(env["TALLY_JOURNAL_URL"], **options)
    pairs = [(host, int(port)) for host, _, port in (address.rpartition(":") for address in addresses)]
    untyped: Any = Sentinel
    asked = untyped(pairs, sentinel_kwargs={**options, "password": env["TALLY_JOURNAL_SENTINEL_PASSWORD"]})
    url = parse_url(env["TALLY_JOURNAL_URL"])  # type: ignore[no-untyped-call]
    return asked.master_for("journal", password=url["password"], db=url["db"], **options)


def queue_of(shard: int) -> str:
    """The name of a shard's queue."""
    return f"shard-{shard}"


def lease_key(lane: Lane) -> str:
    """Where a lane's lease is, in the journal's Redis."""
    return f"journal:{lane}:shift"


def family(row: dict[str, Any]) -> list[psutil.Process]:
    """A process of the cluster and all its descendants; [] if it is gone, or if the pid is a stranger's by now."""
    process = processes.known(row)
    if process is None:
        return []
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return [process]


def start(  # noqa: PLR0913
    directory: Path,
    project: Path = PROJECT,
    *,
    shards: int = 2,
    replicas: int = 1,
    api: int = 2,
    journal_replicas: int = 0,
    shared_buffers: str = "",
    environment: Mapping[str, str] | None = None,
) -> Subject:
    """`cluster up --detach` from a work tree, with these settings. Raises `subprocess.CalledProcessError` with what it
    said."""
    options = ["--port", "0", "--shards", str(shards), "--replicas", str(replicas), "--api", str(api)]
    options += ["--journal-replicas", str(journal_replicas)] if journal_replicas else []
    options += ["--shared-buffers", shared_buffers] if shared_buffers else []
    _manage(project, "cluster", "up", "--dir", str(directory), "--detach", *options, given=environment)
    return Subject(directory, project)


def stop(subject: Subject) -> None:
    """Stop a cluster; its directory stays."""
    _manage(subject.project, "cluster", "down", "--dir", str(subject.directory.root))


def put_away(subject: Subject, *, keep: bool) -> None:
    """Stop a cluster; its directory stays if there is something to look at in it."""
    stop(subject)
    if not keep:
        shutil.rmtree(subject.directory.root, ignore_errors=True)


def destroy(directory: Path, project: Path = PROJECT) -> None:
    """End a cluster, ready or not, and delete its directory."""
    _manage(project, "cluster", "destroy", "--yes", "--dir", str(directory))
    shutil.rmtree(directory, ignore_errors=True)


def _manage(project: Path, *arguments: str, given: Mapping[str, str] | None = None) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")} | dict(
        given or {}
    )
    command = [sys.executable, str(project / "manage.py"), *arguments]
    subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True, text=True, timeout=300)  # noqa: S603
