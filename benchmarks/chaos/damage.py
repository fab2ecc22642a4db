"""Damage to the data of a node, which Patroni or Tally must mend by a new copy: WAL, checkpoint or files gone, a page
overwritten.

Where PostgreSQL must not notice at once, it is killed first, and its Patroni stands still until the damage is done.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.chaos.fault import Fault, Scene
from benchmarks.chaos.freezes import frozen
from benchmarks.chaos.kills import kill, primary_of, replica_of, walsenders
from benchmarks.chaos.subject import Subject, family

PAGE = 8192  # bytes
# Files of the partitions of the counters; those without a page are left out.
FILES = """
SELECT pg_relation_filepath(relid) FROM pg_partition_tree('counter')
WHERE isleaf AND pg_relation_size(relid) > 0 ORDER BY 1"""
CURRENT = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"


def data_of(subject: Subject, row: dict[str, Any]) -> Path:
    """The data directory of a postmaster, by its row in the status."""
    _, shard, node = str(row["name"]).split("-")
    return subject.directory.node(int(shard), int(node)) / "data"


@contextlib.contextmanager
def stopped(subject: Subject, row: dict[str, Any]) -> Iterator[Path]:
    """The data directory of a node that is killed and stays down while the block runs."""
    patroni = subject.named(str(row["name"]).replace("postgres", "patroni"))
    with frozen(family(patroni)[:1]):
        kill(family(row))
        yield data_of(subject, row)


@contextlib.contextmanager
def superuser(subject: Subject, row: dict[str, Any], database: str = "postgres") -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection to one server, in autocommit. Raises `psycopg.OperationalError`."""
    password = json.loads(subject.directory["secrets.json"].read_text())["postgres"]
    with psycopg.connect(
        host="127.0.0.1",
        port=row["port"],
        user="postgres",
        password=password,
        dbname=database,
        connect_timeout=5,
        autocommit=True,
    ) as conn:
        yield conn


def empty(data: Path) -> None:
    """Delete everything in a data directory, as far as PostgreSQL, which may be running, does not do so itself."""
    for path in data.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def lose_checkpoint(data: Path) -> None:
    """Overwrite the control file, which says where the last checkpoint is."""
    path = data / "global" / "pg_control"
    path.write_bytes(bytes(path.stat().st_size))


def lose_wal(data: Path, before: str = "") -> None:
    """Delete WAL: segments older than the one called `before`, or all."""
    for path in (data / "pg_wal").iterdir():
        if path.is_file() and len(path.name) == 24 and (not before or path.name < before):
            path.unlink(missing_ok=True)


def ruin_pages(subject: Subject, shard: int, data: Path) -> None:
    """Overwrite the first page of each partition of the counters with something that is no page."""
    with subject.database(shard) as conn:
        paths = [data / path for (path,) in conn.execute(FILES)]
    for path in paths:
        if path.exists() and path.stat().st_size >= PAGE:
            with path.open("r+b") as file:
                file.write(os.urandom(PAGE))


def settle(subject: Subject, row: dict[str, Any]) -> str:
    """Write a server's checkpoint, at the start of a new segment on a primary, so that it needs no older WAL. Returns the
    name of that segment, "" on a replica."""
    with superuser(subject, row) as conn:
        if conn.execute("SELECT pg_is_in_recovery()").fetchall()[0][0]:
            conn.execute("CHECKPOINT")
            return ""
        conn.execute("SELECT pg_switch_wal()")
        segment = str(conn.execute(CURRENT).fetchall()[0][0])
        conn.execute("CHECKPOINT")
        return segment


def lose_wal_of_replica(subject: Subject, shard: int) -> str:
    """A replica has lost its WAL, and its primary has removed what it would need. Returns the replica's name."""
    primary, replica = subject.primary(shard), subject.replica(shard)
    with stopped(subject, replica) as data:
        lose_wal(data)
        lose_wal(data_of(subject, primary), settle(subject, primary))
    return str(replica["name"])


def lose_wal_of_primary(subject: Subject, shard: int) -> str:
    """A primary dies with commits that its replica never got, and without the WAL back to where they part: it can be
    started, and not rewound. Returns its name."""
    primary = subject.primary(shard)
    with frozen(walsenders(primary)):
        segment = settle(subject, primary)
        with stopped(subject, primary) as data:
            lose_wal(data, segment)
    return str(primary["name"])


def lose_replica_wal(scene: Scene) -> str:
    """See `lose_wal_of_replica`."""
    shard = scene.shard()
    replica_of(scene, shard)
    primary_of(scene, shard)
    return lose_wal_of_replica(scene.subject, shard)


def lose_primary_wal(scene: Scene) -> str:
    """See `lose_wal_of_primary`."""
    shard = scene.shard()
    replica_of(scene, shard)
    walsenders(primary_of(scene, shard))
    return lose_wal_of_primary(scene.subject, shard)


def empty_some(scene: Scene) -> str:
    """The data directory of a primary or of a replica, while it runs."""
    shard = scene.shard()
    replica = replica_of(scene, shard)
    row = primary_of(scene, shard) if scene.rng.random() < 0.5 else replica
    empty(data_of(scene.subject, row))
    return str(row["name"])


def ruin_replica(scene: Scene) -> str:
    """Pages of a replica. Reconciliation, which is asked for here, finds them."""
    shard = scene.shard()
    row = replica_of(scene, shard)
    with stopped(scene.subject, row) as data:
        ruin_pages(scene.subject, shard, data)
    return str(row["name"])


def all_damages() -> list[Fault]:
    """WAL, files and pages."""
    return [
        Fault("WAL deleted, replica", lose_replica_wal),
        Fault("WAL deleted, primary", lose_primary_wal),
        Fault("data directory emptied", empty_some),
        Fault("page damaged", ruin_replica),
    ]
