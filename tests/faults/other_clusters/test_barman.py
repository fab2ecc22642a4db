"""Barman on a shard of a cluster of its own, as docs/backup.md has it: a backup, a failover, a restore to a moment. Only
where `barman` is on PATH."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml

from cluster import layout, programs, state
from cluster.layout import Directory
from tests.support.cluster import Cluster, eventually, value_of
from tests.support.commands import MANAGE, ROOT, clean, up

SECONDS = 120.0
PASSWORDS = {"barman": "BARMAN_PASSWORD", "streaming_barman": "STREAMING_PASSWORD"}
pytestmark = [
    pytest.mark.skipif(shutil.which("barman") is None, reason="barman is not on PATH (Debian: barman)"),
    pytest.mark.timeout(600),
]


def block(name: str) -> str:
    """A block of the page."""
    found = re.search(
        rf"<!-- barman {re.escape(name)} -->\n```\w+\n(.*?)```", (ROOT / "docs" / "backup.md").read_text(), re.DOTALL
    )
    assert found
    return found[1]


class Barman:
    """The host of the backups, and the cluster with one shard that it backs up."""

    def __init__(self, directory: Path, home: Path) -> None:
        self.cluster, self.directory, self.home = Cluster(directory), Directory(directory), home
        self._secrets = layout.load_secrets(self.directory)
        self.ports = [row["port"] for row in self.cluster.processes("postgres")]
        self._programs = programs.find()
        self._barman = ("barman", "-c", str(home / "barman.conf"))

    def prepare(self) -> None:
        """What the page says up to the first backup, with the addresses of this cluster."""
        with self.on_primary() as conn:
            for statement in block("roles").split(";\n"):
                conn.execute(statement)
        for row in self.cluster.processes("patroni"):
            path = self.directory.patroni_config(0, int(row["name"][-1]))
            config = yaml.safe_load(path.read_text())
            config["postgresql"]["pg_hba"] += yaml.safe_load(block("pg_hba").replace("10.0.0.9", "127.0.0.1"))
            path.write_text(yaml.safe_dump(config))
            self.patroni(row, "POST", "/reload")
        self.patroni(self.cluster.processes("patroni")[0], "PATCH", "/config", block("slot"))

        def slots() -> list[bool]:
            return [bool(self.slot(port)) for port in self.ports]

        eventually(lambda: all(slots()), SECONDS)
        config = block("shard-0.conf").replace("/usr/lib/postgresql/18/bin", str(self._programs.postgres_bin))
        config = config.replace("db-0-1,db-0-2", "127.0.0.1,127.0.0.1").replace(
            "5432,5432", ",".join(map(str, self.ports))
        )
        (self.home / "barman.d").mkdir()
        (self.home / "barman.d" / "shard-0.conf").write_text(config)
        (self.home / "barman.conf").write_text(
            f"[barman]\nbarman_user = {getpass.getuser()}\nbarman_home = {self.home}/data\n"
            f"configuration_files_directory = {self.home}/barman.d\nlog_file = {self.home}/barman.log\n"
        )
        (self.home / "data").mkdir()
        passwords = "".join(f"127.0.0.1:*:*:{role}:{password}\n" for role, password in PASSWORDS.items())
        layout.write_private(self.home / ".pgpass", passwords)

    def patroni(self, row: dict[str, Any], method: str, path: str, body: str = "{}") -> None:
        login = layout.PATRONI_USER, self._secrets["patroni"]
        httpx.request(
            method, f"http://127.0.0.1:{row['port']}{path}", content=body, auth=login, timeout=30
        ).raise_for_status()

    def on_primary(self) -> psycopg.Connection[Any]:
        return self._connect(",".join(map(str, self.ports)), "read-write")

    def _connect(self, port: object, target: str = "any") -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=",".join(["127.0.0.1"] * len(str(port).split(","))),
            port=str(port),
            user="postgres",
            password=self._secrets["postgres"],
            dbname="postgres",
            target_session_attrs=target,
            autocommit=True,
        )

    def slot(self, port: int) -> list[Any]:
        with self._connect(port) as conn:
            return conn.execute("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'barman'").fetchall()

    def run(self, line: str) -> str:
        """What a command of the page says; it succeeds."""
        command = shlex.split(line)
        assert command[0] == "barman"
        environment = {**clean(), "PGPASSFILE": str(self.home / ".pgpass"), "TZ": "UTC"}
        done = subprocess.run(
            [*self._barman, *command[1:]],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout

    def stop(self) -> None:
        """End what receives WAL, if it still runs: nothing else of Barman stays."""
        subprocess.run([*self._barman, "receive-wal", "--stop", "shard-0"], check=False, capture_output=True)

    def has_received(self) -> bool:
        """Whether Barman has what the primary has."""
        with self.on_primary() as conn:
            (found,) = conn.execute(
                "SELECT coalesce(bool_or(flush_lsn >= pg_current_wal_flush_lsn()), false) FROM pg_stat_replication "
                "WHERE usename = 'streaming_barman'"
            ).fetchall()
        return bool(found[0])

    def primary(self) -> dict[str, Any]:
        now = state.current(self.directory)
        return next(row for row in now.processes if row["name"] in now.primary_names)

    def data(self, name: str) -> Path:
        """The data directory of a server."""
        return self.directory.node(0, int(name[-1])) / "data"

    def manage(self, *command: str) -> None:
        line = [*MANAGE, "cluster", *command, "--dir", str(self.directory.root)]
        done = subprocess.run(line, cwd=ROOT, env=clean(), check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    def recover(self, restored: Path) -> None:
        """Let PostgreSQL recover until it is promoted, and stop it."""
        log, data = self.home / "recovery.log", str(restored)
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={self.ports[0]}", "-c", "logging_collector=off"]
        command = [*self._programs.unprivileged, str(self._programs.postgres_bin / "postgres"), "-D", data, *settings]
        with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
            try:
                eventually(
                    lambda: "ready to accept connections" in log.read_text() or server.poll() is not None, SECONDS
                )
                assert server.poll() is None, log.read_text()
            finally:
                server.send_signal(signal.SIGINT)


def test_a_shard_is_restored_to_a_moment(tmp_path: Path, put_away: Callable[[Path], None]) -> None:
    """The backup is of the first primary, the moment is of the second one: Barman has followed the failover."""
    directory, home, restored = tmp_path / "cluster", tmp_path / "barman", tmp_path / "restored"
    home.mkdir()
    up(directory, "--port", "0", "--shards", "1", "--replicas", "1", "--api", "1")
    barman = Barman(directory, home)
    key = "barman:1"
    try:
        with barman.cluster.client() as client:

            def add(delta: int, total: int) -> None:
                client.post(f"/v1/counters/{key}/increments", json={"delta": delta}).raise_for_status()
                eventually(lambda: value_of(client, key) == total, SECONDS)

            barman.prepare()
            add(1, 1)
            backups = block("backup").splitlines()
            barman.run(backups[0])
            eventually(barman.has_received, SECONDS)
            for line in backups[1:]:
                barman.run(line)
            add(10, 11)
            first = barman.primary()
            os.kill(first["pid"], signal.SIGKILL)
            add(100, 111)
            barman.cluster.wait_until_whole()
            barman.run("barman cron")
            eventually(barman.has_received, SECONDS)
            moment = datetime.now(UTC)
            time.sleep(0.1)
            add(1000, 1111)
            barman.run("barman switch-wal --force --archive shard-0")
        last = barman.primary()["name"]  # is started first
        assert last != first["name"]
        barman.manage("down")
        (backup,) = re.findall(r"^shard-0 (\S+)", barman.run("barman list-backups shard-0"), re.MULTILINE)
        line = block("restore").strip().replace("/srv/restored", str(restored)).replace("20261126T020000", backup)
        barman.run(line.replace("2026-11-26 14:20:00+00", moment.isoformat(sep=" ")))
        barman.recover(restored)
        shutil.rmtree(directory / "etcd")
        for name in ("postgres-0-1", "postgres-0-2"):
            shutil.rmtree(barman.data(name))
        restored.rename(barman.data(last))
        up(directory)
        cluster = Cluster(directory)
        cluster.manage("after_restore")
        with cluster.client() as client:
            eventually(lambda: value_of(client, key) == 111, SECONDS)
            client.post(f"/v1/counters/{key}/increments", json={"delta": 1}).raise_for_status()
            eventually(lambda: value_of(client, key) == 112, SECONDS)
        cluster.wait_until_whole()
    finally:
        barman.stop()
        put_away(directory)
