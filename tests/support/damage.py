"""Damage that streaming never mends: other bytes in a row of a replica's own files, its page checksum right. As a bad
disk controller, a restored file or a bug would leave it. The replica is stopped meanwhile, with Patroni paused."""

from __future__ import annotations

import json
import signal
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import psycopg
from psycopg import sql

from cluster import programs
from replication import patroni
from sharding import databases, nodes
from tests.support.cluster import Cluster, eventually

PLACE = sql.SQL("""
SELECT pg_relation_filepath(tableoid), (ctid::text::point)[0]::integer, (ctid::text::point)[1]::integer FROM {} WHERE {}""")
REPLAYED = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
PAGE = 8192
HEADER = 24  # bytes at the beginning of a page
POINTER = struct.Struct("<I")  # behind them, one for each row: 15 bits offset, 2 flags, 15 length


class Change(NamedTuple):
    """Other bytes in the one row of a table that a condition names."""

    table: str
    where: str
    was: bytes
    now: bytes


def value(key: str, version: int, was: int, now: int) -> Change:
    """Another value of a counter, same version."""
    before, after = struct.pack("<qq", was, version), struct.pack("<qq", now, version)
    return Change("counter", f"key = '{key}'", before, after)


def moment(table: str, item: str, user: str, was: int, now: int) -> Change:
    """Another moment of a like."""
    where = f"item = '{item}' AND user_id = '{user}'"
    return Change(table, where, struct.pack("<q", was), struct.pack("<q", now))


class Replica:
    """A replica of a shard: its number among the shard's nodes, Patroni's name of it, its files."""

    def __init__(self, cluster: Cluster, shard: int) -> None:
        self.cluster, self.shard = cluster, shard
        self.secrets: dict[str, str] = json.loads((cluster.dir / "secrets.json").read_text())
        with databases.connect(databases.primary(shard), autocommit=True) as conn:
            primary = conn.info.port
        self.primary_port = primary
        self.number, self.node = next((n, node) for n, node in enumerate(nodes.of(shard), 1) if node.port != primary)
        self.name = patroni.name_of(self.node)
        self.data: Path = cluster.dir / "shards" / str(shard) / str(self.number) / "data"

    def superuser(self, port: int) -> psycopg.Connection[Any]:
        options: dict[str, Any] = {
            "host": "127.0.0.1",
            "user": "postgres",
            "password": self.secrets["postgres"],
            "dbname": "postgres",
        }
        return psycopg.connect(port=port, autocommit=True, **options)

    def patroni(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask its Patroni."""
        answer = httpx.request(
            method, f"{self.node.patroni}{path}", json=body, auth=("tally", self.secrets["patroni"]), timeout=30
        )
        assert answer.status_code in (200, 202, 503), answer.text
        return dict(answer.json()) if answer.text.startswith("{") else {}

    def is_streaming(self) -> bool:
        return self.patroni("GET", "/patroni").get("replication_state") == "streaming"

    def rewrite(self, *changes: Change) -> None:
        """Change rows in the replica's files alone."""
        places = self._places(changes)
        try:
            self._stop()
            self._checksums("disable")
            for (_, _, was, now), (path, page, line) in zip(changes, places, strict=True):
                file = self.data / path
                content = bytearray(file.read_bytes())
                row = row_at(content, page, line)
                assert content[row].count(was) == 1
                content[row] = content[row].replace(was, now)
                file.write_bytes(content)
            self._checksums("enable")
        finally:
            self._start()

    def _places(self, changes: Sequence[Change]) -> list[tuple[str, int, int]]:
        """Where the rows are, when the replica has them in its files and will not replay them again."""
        with databases.connect(databases.primary(self.shard), autocommit=True) as conn:
            for table in {one.table for one in changes}:
                conn.execute(sql.SQL("VACUUM {}").format(sql.Identifier(table)))
                # else a read may prune the page later, and the replica gets all of it anew
            queries = [PLACE.format(sql.Identifier(one.table), sql.SQL(one.where)) for one in changes]
            places: list[tuple[str, int, int]] = [conn.execute(query).fetchall()[0] for query in queries]
        with self.superuser(self.primary_port) as conn:
            conn.execute("CHECKPOINT")
            written = conn.execute("SELECT pg_current_wal_lsn()").fetchall()[0][0]
        with self.superuser(self.node.port) as conn:
            eventually(lambda: conn.execute(REPLAYED, (written,)).fetchall()[0][0])
            conn.execute("CHECKPOINT")
        return places

    def _stop(self) -> None:
        self.patroni("PATCH", "/config", {"pause": True})
        eventually(lambda: self.patroni("GET", "/patroni").get("pause"))
        postmaster = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        postmaster.send_signal(signal.SIGINT)
        postmaster.wait(30)

    def _start(self) -> None:
        self.patroni("PATCH", "/config", {"pause": None})
        eventually(self.is_streaming, 60)

    def _checksums(self, mode: str) -> None:
        found = programs.find()
        command = [
            *found.unprivileged,
            str(found.postgres_bin / "pg_checksums"),
            f"--{mode}",
            "--no-sync",
            "-D",
            str(self.data),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def row_at(content: bytes | bytearray, page: int, line: int) -> slice:
    """Where a row's bytes are in a table's file. The rest of the page may have older copies of the same row."""
    start = page * PAGE
    pointer: int = POINTER.unpack_from(content, start + HEADER + POINTER.size * (line - 1))[0]
    offset, length = start + (pointer & 0x7FFF), pointer >> 17
    return slice(offset, offset + length)
