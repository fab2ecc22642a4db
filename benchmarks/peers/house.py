"""Starts peers, and ends them: servers behind an nginx like Tally's, a Redis from the same binary, a database on shard
0's primary."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from redis import Redis

from benchmarks.chaos.subject import Subject
from benchmarks.context import Address, Context
from benchmarks.document import ROOT
from cluster import argv, configs, programs
from cluster.layout import Directory, Layout, port_is_free, random_start
from runtime import polling

PROCESSES = 2  # of a peer's server: as many as Tally has API processes
START_SECONDS = 30.0
TABLE = "CREATE TABLE count (key text PRIMARY KEY, value bigint NOT NULL) WITH (fillfactor = 80)"
GRANIAN = (
    "-m",
    "granian",
    "--interface",
    "wsgi",
    "--workers",
    "1",
    "--blocking-threads",
    "64",
    "--backpressure",
    "256",
)
# As Tally's own processes keep idle connections. By uvicorn's default of 5 s it may close one just as nginx sends a
# request there; nginx leaves such a server out for a second, and answers 503 when it has no other.
UVICORN = (
    *("-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
    *("--timeout-keep-alive", str(argv.KEEP_ALIVE_SECONDS)),
)


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens."""
    found: list[int] = []
    for port in range(random_start(), 30000):
        if len(found) < count and port_is_free(port):
            found.append(port)
    return found


@contextlib.contextmanager
def process(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs while the block does."""
    with log.open("ab") as output:
        started = subprocess.Popen(  # noqa: S603
            command, cwd=ROOT, env={**os.environ, **(environment or {})}, stdout=output, stderr=output
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def listening(ports: Sequence[int], log: Path) -> None:
    """Wait until somebody listens on each port. Raises `TimeoutError` with the end of the log."""
    if not polling.until(lambda: not any(map(port_is_free, ports)), START_SECONDS, pause=0.05):
        raise TimeoutError(f"a peer did not start: {log.read_text()[-1000:]}")


@contextlib.contextmanager
def server(
    context: Context, app: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[list[Address]]:
    """Processes of an app (`benchmarks.peers.…`), where the load for them goes: to an nginx in front, or straight to
    them."""
    ports = free_ports(PROCESSES + 1)
    log = context.directory / f"{app.rpartition(':')[0].rpartition('.')[2]}.log"
    with contextlib.ExitStack() as stack:
        for port in ports[1:]:
            command = [sys.executable, *arguments, "--host", "127.0.0.1", "--port", str(port), app]
            stack.enter_context(process(command, log, environment))
        if not context.direct:
            stack.enter_context(_nginx(context, ports, log))
        listening(ports[1:] if context.direct else ports, log)
        yield [("127.0.0.1", port) for port in (ports[1:] if context.direct else ports[:1])]


def _nginx(context: Context, ports: Sequence[int], log: Path) -> contextlib.AbstractContextManager[Any]:
    """The front, from the same template as Tally's: `ports[0]` is its own."""
    directory = Directory(context.directory / f"nginx-{ports[0]}")
    directory["nginx"].mkdir(parents=True)
    named = {"nginx": ports[0], **{f"api-{number}": port for number, port in enumerate(ports[1:], 1)}}
    layout = Layout(scale={"api": len(ports) - 1, "worker": 0, "spill-worker": 0}, ports=named)
    (directory["nginx"] / "nginx.conf").write_text(configs.nginx(layout, directory, "", as_root=os.geteuid() == 0))
    return process(
        [str(programs.find().nginx), "-p", f"{directory['nginx']}/", "-c", "nginx.conf", "-e", "stderr"], log
    )


@contextlib.contextmanager
def redis(context: Context, *options: str) -> Iterator[str]:
    """A Redis of a peer's own, without persistence unless `options` say otherwise. Its URL."""
    port = free_ports(1)[0]
    directory = context.directory / f"redis-{port}"
    directory.mkdir()
    command = [
        str(programs.find().redis),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--dir",
        str(directory),
        "--save",
        "",
        *options,
    ]
    log = directory / "log"
    with process(command, log):
        listening([port], log)
        yield f"redis://127.0.0.1:{port}/0"


AOF = ("--appendonly", "yes", "--appendfsync", "everysec")


def redis_counts(url: str, keys: Sequence[str]) -> dict[str, int]:
    """What a peer's Redis counted, 0 for a key that it does not have. Raises `RedisError`."""
    client: Any = Redis.from_url(url)
    try:
        found = [client.mget(keys[start : start + 1000]) for start in range(0, len(keys), 1000)]
    finally:
        client.close()
    return {key: int(value or 0) for key, value in zip(keys, [one for some in found for one in some], strict=True)}


def admin(subject: Subject, shard: int = 0) -> str:
    """How a superuser connects to the primary of a shard. Raises `psycopg.OperationalError`."""
    with subject.database(shard) as conn:
        port = conn.info.port
    password = json.loads(subject.directory["secrets.json"].read_text())["postgres"]
    return make_conninfo(host="127.0.0.1", port=port, user="postgres", password=password, dbname="postgres")


class Database:
    """A database of a peer's own, on the primary of shard 0, with the table `count`."""

    def __init__(self, subject: Subject, name: str) -> None:
        self._name = sql.Identifier(name)
        with subject.database(0) as conn:
            port = conn.info.port
        password = json.loads(subject.directory["secrets.json"].read_text())["postgres"]
        self._admin = make_conninfo(host="127.0.0.1", port=port, user="postgres", password=password, dbname="postgres")
        self.dsn = make_conninfo(self._admin, dbname=name)
        self.django = {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": "127.0.0.1",
            "PORT": port,
            "USER": "postgres",
            "PASSWORD": password,
            "NAME": name,
        }

    @property
    def environment(self) -> dict[str, str]:
        """For the process of a peer."""
        return {"BENCH_DATABASE": json.dumps(self.django), "BENCH_DSN": self.dsn}

    def make(self, keys: Sequence[str], tables: str = "") -> None:
        """The table, with a row for each key, and others."""
        self.drop()
        with psycopg.connect(self._admin, autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(self._name))
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(TABLE)
            if tables:
                conn.execute(tables)
            conn.execute("INSERT INTO count SELECT unnest(%s::text[]), 0", (list(keys),))
            conn.execute("VACUUM ANALYZE count")

    def drop(self) -> None:
        """Nothing of it is left."""
        with psycopg.connect(self._admin, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(self._name))

    def counts(self) -> dict[str, int]:
        """What it counted, zeros left out."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            return dict(conn.execute("SELECT key, value FROM count WHERE value <> 0").fetchall())


@contextlib.contextmanager
def database(subject: Subject, name: str, keys: Sequence[str], tables: str = "") -> Iterator[Database]:
    """A database of this name for the time of the block; `tables`: statements that make more than the table `count`."""
    found = Database(subject, name)
    found.make(keys, tables)
    try:
        yield found
    finally:
        found.drop()


def wait_for_sum(database: Database, total: int, patience: float = 120.0) -> float:
    """When the table had the whole sum, by `time.monotonic`. Raises `TimeoutError`."""
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        for _ in polling.attempts(patience, pause=0.02):
            found = conn.execute("SELECT coalesce(sum(value), 0)::bigint FROM count").fetchall()[0][0]
            if found == total:
                return time.monotonic()
    raise TimeoutError(f"{found:,} of {total:,} increments were counted after {patience:g} s")
