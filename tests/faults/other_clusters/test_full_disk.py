"""A disk that load fills: writes are refused while PostgreSQL still has room for what was accepted, nothing crashes, and
they go on when there is room. The server's directory is a small file system of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest

from cluster import prepare
from cluster.layout import Asked, Directory
from tests.support.cluster import Cluster, eventually, wait_applied
from tests.support.commands import MANAGE, ROOT, clean
from tests.support.http import assert_problem

MIB = 1024**2
SIZE, BALLAST, RESERVE = 352 * MIB, 128 * MIB, 96 * MIB  # the ballast alone is more than 1.25 times the reserve
KEYS = 2000  # new ones in each write
MOST_WRITES = 400
PAUSE_SECONDS = 0.05  # after each: what is written until all know that the room is too little must fit into the reserve
# In a user namespace an ordinary user may mount; in a second one PostgreSQL runs as no root.
MOUNT = (
    'mount -t tmpfs -o size="$1",mode=700 tmpfs "$2" && head -c "$3" /dev/zero > "$2/ballast" && shift 3 && exec "$@"'
)
PRIVATE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c", MOUNT, "sh")
ORDINARY = ("unshare", "--user", "--map-user=1000", "--map-group=1000")


def can_mount(place: Path) -> bool:
    command = [*PRIVATE, str(MIB), str(place), "0", *ORDINARY, "true"]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:  # macOS
        return False


@contextmanager
def running(directory: Path, place: Path) -> Iterator[tuple[Cluster, Path]]:
    """A cluster whose node has a file system of its own, and the ballast on it."""
    command = [
        *PRIVATE,
        str(SIZE),
        str(place),
        str(BALLAST),
        *ORDINARY,
        *MANAGE,
        "cluster",
        "up",
        "--dir",
        str(directory),
    ]
    said = directory / "said"
    with said.open("w") as output:
        supervisor = subprocess.Popen(
            command, cwd=ROOT, env=clean(TALLY_DISK_RESERVE_BYTES=str(RESERVE)), stdout=output, stderr=output
        )
    try:
        eventually(lambda: supervisor.poll() is not None or "ready:" in said.read_text(), 120)
        assert supervisor.poll() is None, said.read_text()
        yield Cluster(directory), Path(f"/proc/{supervisor.pid}/root{place}/ballast")
    finally:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait(120)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Path]]:
    root = tmp_path_factory.mktemp("full")
    if not can_mount(root):
        pytest.skip("this user may not make a user namespace and mount in it")
    directory = Directory(root)
    directory.prepare()
    prepare.planner(directory, Asked(port=0, shards=1, replicas=0, api=1))
    place = directory.node(0, 1)
    with running(root, place) as found:
        yield found


def rows(cluster: Cluster, prefix: str) -> tuple[int, int]:
    """Counters of this prefix in the shard, and their sum."""
    (node,) = json.loads(cluster.env["TALLY_SHARDS"])[0]["nodes"]
    address = {"host": node["host"], "port": node["port"], "dbname": "tally", "user": "tally"}
    with psycopg.connect(**address, password=cluster.env["TALLY_DATABASE_PASSWORD"]) as conn:
        query = "SELECT count(*), coalesce(sum(value), 0)::bigint FROM counter WHERE key LIKE %s"
        count, total = conn.execute(query, [f"{prefix}:%"]).fetchall()[0]
        return count, total


@pytest.mark.limit("TALLY_DISK_RESERVE_BYTES")
def test_a_full_disk_refuses_before_it_breaks(subject: tuple[Cluster, Path], key: str) -> None:
    cluster, ballast = subject
    with cluster.client() as client:
        accepted = 0

        def write() -> httpx.Response:
            """As many new counters as ever."""
            keys = [f"{key}:{accepted}:{n}" for n in range(KEYS)]
            time.sleep(PAUSE_SECONDS)
            return client.post("/v1/increments", json={"keys": keys, "deltas": [1] * KEYS})

        for _ in range(MOST_WRITES):
            answer = write()
            if answer.status_code != 202:
                break
            accepted += 1
        assert_problem(answer, 503, "disk-full")
        assert answer.headers["Retry-After"]
        eventually(lambda: rows(cluster, key) == (accepted * KEYS, accepted * KEYS), 60)
        for _ in range(10):
            assert_problem(write(), 503, "disk-full")
        assert client.get("/health").json()["status"] == "degraded"
        ballast.unlink()
        eventually(lambda: write().status_code == 202)
        accepted += 1
        wait_applied(client, f"{key}:after")  # and the other lanes some time later
        eventually(lambda: rows(cluster, key) == (accepted * KEYS + 1, accepted * KEYS + 1), 60)
        assert {row["name"]: row["restarts"] for row in cluster.status()["processes"] if row["restarts"]} == {}
        log = (cluster.dir / "logs" / "postgres-0-1.log").read_text()
        assert "No space left" not in log
        assert "PANIC" not in log
