"""Damage to the data of a node, which Patroni or Tally must mend by a new copy: WAL, checkpoint or files gone, a page
overwritten.

Where PostgreSQL must not notice at once, it is killed first, and its Patroni stands still until the damage is done.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.chaos.fault import Fault, NotPossible, Scene
from benchmarks.chaos.freezes import frozen
from benchmarks.chaos.kills import empty, kill, primary_of, replica_of, walsenders
from benchmarks.chaos.subject import Subject, family
from benchmarks.chaos.wire import NoAnswer
from runtime import polling

PAGE = 8192  # bytes
JSON = {"Content-Type": "application/json"}
# Files of the partitions of the counters; those without a page are left out.
FILES = """
SELECT pg_relation_filepath(relid) FROM pg_partition_tree('counter')
WHERE isleaf AND pg_relation_size(relid) > 0 ORDER BY 1"""
SEGMENT = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"
REPLAYED = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
SETTLE_SECONDS = 10.0
COLD = 50_000
FOUND_SECONDS = 20.0
MENDED_SECONDS = 120.0
WAIT_SECONDS = 20


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


def lose_checkpoint(data: Path) -> None:
    """Overwrite the control file, which says where the last checkpoint is."""
    path = data / "global" / "pg_control"
    path.write_bytes(bytes(path.stat().st_size))


def lose_wal(data: Path, before: str = "") -> None:
    """Delete WAL: segments older than the one called `before`, or all."""
    for path in (data / "pg_wal").iterdir():
        if path.is_file() and len(path.name) == 24 and (not before or path.name < before):
            path.unlink(missing_ok=True)


def ruin_pages(data: Path, files: Iterable[str]) -> None:
    """Overwrite a page in the middle of each file with something that is no page."""
    for file in files:
        with (data / file).open("r+b") as opened:
            opened.seek((data / file).stat().st_size // PAGE // 2 * PAGE)
            opened.write(os.urandom(PAGE))


def counter_files(subject: Subject, shard: int) -> list[str]:
    """Files of the counters, relative to a data directory of the shard."""
    with subject.database(shard) as conn:
        return [path for (path,) in conn.execute(FILES)]


def checkpoint(subject: Subject, primary: dict[str, Any]) -> tuple[str, str]:
    """Write a checkpoint at the start of a new segment, so that the server needs no older WAL. Returns the name of that
    segment, and the position behind the checkpoint."""
    with superuser(subject, primary) as conn:
        conn.execute("SELECT pg_switch_wal()")
        segment = conn.execute(SEGMENT).fetchall()[0][0]
        conn.execute("CHECKPOINT")
        return str(segment), str(conn.execute("SELECT pg_current_wal_lsn()").fetchall()[0][0])


def settle(subject: Subject, shard: int) -> None:
    """Bring everything that a shard has into the files of both its servers: neither will replay it."""
    with subject.database(shard) as conn:
        conn.execute("VACUUM counter")  # else a read may prune a page later, and the replica gets all of it anew
    _, position = checkpoint(subject, subject.primary(shard))
    with superuser(subject, subject.replica(shard)) as conn:
        for _ in polling.attempts(SETTLE_SECONDS, pause=0.05):
            if conn.execute(REPLAYED, (position,)).fetchall()[0][0]:
                break
        conn.execute("CHECKPOINT")


def lose_wal_of_replica(subject: Subject, shard: int) -> str:
    """A replica has lost its WAL, and its primary has removed what it would need. Returns the replica's name."""
    primary, replica = subject.primary(shard), subject.replica(shard)
    with stopped(subject, replica) as data:
        lose_wal(data)
        lose_wal(data_of(subject, primary), before=checkpoint(subject, primary)[0])
    return str(replica["name"])


def lose_wal_of_primary(subject: Subject, shard: int) -> str:
    """A primary dies with commits that its replica never got, and without the WAL back to where they part: it can be
    started, and not rewound. Returns its name."""
    primary = subject.primary(shard)
    with frozen(walsenders(primary)):
        segment, _ = checkpoint(subject, primary)
        with stopped(subject, primary) as data:
            lose_wal(data, before=segment)
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


def write_cold_counters(subject: Subject) -> None:
    """Counters that the load does not write to, for pages that no WAL replaces. Raises `NotPossible`."""
    body = {"keys": [f"cold:{n}" for n in range(COLD)], "deltas": [1] * COLD}
    wire = subject.wire()
    try:
        written = wire.ask("POST", "/v1/increments", json.dumps(body).encode(), JSON).json
        applied = wire.ask("GET", f"/v1/counters?key=cold:0&after={written['id']}&wait={WAIT_SECONDS}", timeout=30)
    except (NoAnswer, KeyError) as error:
        raise NotPossible(f"the cold counters are not written: {error!r}") from error
    finally:
        wire.close()
    if applied.status != 200:
        raise NotPossible(f"the cold counters are not applied: {applied.body[:200]!r}")


def ruin_pages_of(subject: Subject, shard: int, row: dict[str, Any]) -> str:
    """A server dies, and a page of each of its tables of counters is damaged. Returns its name."""
    files = counter_files(subject, shard)
    settle(subject, shard)
    with stopped(subject, row) as data:
        ruin_pages(data, files)
    return str(row["name"])


def ruin_replica(scene: Scene) -> str:
    """Pages of a replica, until reconciliation has found them and the replica was copied again: the next fault must not
    make this copy the primary."""
    shard = scene.shard()
    write_cold_counters(scene.subject)
    name = ruin_pages_of(scene.subject, shard, replica_of(scene, shard))
    if polling.until(lambda: _compared(scene, shard) is False, FOUND_SECONDS, pause=1.0):
        polling.until(lambda: _compared(scene, shard) is True, MENDED_SECONDS, pause=1.0)
    return name


def _compared(scene: Scene, shard: int) -> bool | None:
    """Whether a shard's copies are equal, by a comparison that is made now; None if that could not be told."""
    wire = scene.subject.wire()
    try:
        answer = wire.ask("GET", f"/v1/shards/{shard}/digest?wait={WAIT_SECONDS}", timeout=WAIT_SECONDS + 5)
    except NoAnswer:
        return None
    finally:
        wire.close()
    return answer.json.get("equal")


def all_damages() -> list[Fault]:
    """WAL, files and pages."""
    return [
        Fault("WAL deleted, replica", lose_replica_wal, loses_data=True),
        Fault("WAL deleted, primary", lose_primary_wal, loses_data=True, fails_over=True),
        Fault("data directory emptied", empty_some, loses_data=True),
        Fault("page damaged", ruin_replica, loses_data=True),
    ]
