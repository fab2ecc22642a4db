"""From the version before lanes to this one: the journal is drained, the tables are migrated, and nothing is lost or
counted twice."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from redis import Redis

from cluster import programs
from tests.support.cluster import Cluster, eventually, value_of
from tests.support.commands import ROOT, clean

BEFORE = "fc42c69"  # the last commit with one journal a shard


@pytest.fixture(scope="module")
def old_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of before."""
    tree = tmp_path_factory.mktemp("before")
    archive = tree / "tree.tar"
    done = subprocess.run(
        ["git", "archive", "-o", str(archive), BEFORE], cwd=ROOT, check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"the history has no {BEFORE} (a shallow clone?): {done.stderr.strip()}")
    with tarfile.open(archive) as files:
        files.extractall(tree, filter="data")
    (tree / "path").mkdir()
    (tree / "path" / "redis-server").symlink_to(programs.find().redis)  # its wheel is no longer installed
    return tree


def manage(tree: Path, directory: Path, command: str, *arguments: str) -> None:
    """`manage.py cluster COMMAND` of a tree, on the cluster in a directory."""
    line = [sys.executable, str(tree / "manage.py"), "cluster", command, *arguments, "--dir", str(directory)]
    env = clean() | {"PATH": f"{tree / 'path'}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(line, cwd=tree, env=env, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def directory(tmp_path: Path, put_away: Callable[[Path], None]) -> Iterator[Path]:
    yield tmp_path
    put_away(tmp_path)


def test_an_upgrade_counts_what_the_version_before_had_accepted(old_tree: Path, directory: Path) -> None:
    """Writes that were applied, and writes that its journals still have: plain ones, a set between them, bulk ones,
    idempotency keys."""
    manage(old_tree, directory, "up", "--port", "0", "--shards", "1", "--replicas", "0", "--api", "1", "--detach")
    keys = [f"upgrade:{n}" for n in range(40)]
    token = {"Idempotency-Key": uuid4().hex}
    with Cluster(directory).client() as client:
        applied = add(client, keys[0], 1, wait=10)
        add_all(client, keys, 2)
        once = (
            client.post(f"/v1/counters/{keys[1]}/increments", json={"delta": 5}, headers=token)
            .raise_for_status()
            .json()
        )
        eventually(lambda: value_of(client, keys[1]) == 7)
        manage(old_tree, directory, "scale", "worker=0")
        queued = add(client, keys[2], 10)
        with pytest.raises(httpx.ReadTimeout):  # it waits to be applied; the journal has it by then
            client.put(f"/v1/counters/{keys[3]}", json={"value": 1000}, timeout=1)
        for _ in range(20):
            add_all(client, keys, 3)
        later = client.post(
            f"/v1/counters/{keys[4]}/increments", json={"delta": 7}, headers={"Idempotency-Key": "later"}
        ).json()
        assert client.get(f"/v1/writes/{queued}").json()["status"] == "queued"
    manage(old_tree, directory, "down")

    manage(ROOT, directory, "up", "--detach")
    cluster = Cluster(directory)
    assert cluster.processes("worker") == [], "as before: the migration has drained the journals by itself"
    expected = dict.fromkeys(keys, 2 + 20 * 3) | {keys[0]: 63, keys[1]: 67, keys[2]: 72, keys[3]: 1060, keys[4]: 69}
    with cluster.client() as client:
        assert {key: value_of(client, key) for key in keys} == expected
        assert lanes_of(cluster, 0) == [0, 1, 2, 3]
        for write in (applied, queued, once["id"], later["id"]):
            assert client.get(f"/v1/writes/{write}").json()["status"] == "applied"
        manage(ROOT, directory, "scale", "worker=1")
        assert client.post(f"/v1/counters/{keys[1]}/increments", json={"delta": 5}, headers=token).json() == once
        repeated = client.post(
            f"/v1/counters/{keys[4]}/increments", json={"delta": 7}, headers={"Idempotency-Key": "later"}
        )
        assert repeated.json() == later
        add_all(client, keys, 1)
        eventually(
            lambda: {key: value_of(client, key) for key in keys} == {key: value + 1 for key, value in expected.items()}
        )
        assert client.put(f"/v1/counters/{keys[3]}", json={"value": 5}).json()["value"] == 5
        assert client.get("/v1/shards/0/replicas").status_code == 200
        assert dead_letters(cluster) == 0


def add(client: httpx.Client, key: str, delta: int, **params: int) -> str:
    answer = client.post(f"/v1/counters/{key}/increments", json={"delta": delta}, params=params).raise_for_status()
    return str(answer.json()["id"])


def add_all(client: httpx.Client, keys: list[str], delta: int) -> None:
    client.post(
        "/v1/increments", json={"increments": [{"key": key, "delta": delta} for key in keys]}
    ).raise_for_status()


def lanes_of(cluster: Cluster, shard: int) -> list[int]:
    nodes = [one["port"] for one in cluster.processes("postgres", shard)]
    with psycopg.connect(
        host=",".join(["127.0.0.1"] * len(nodes)),
        port=",".join(map(str, nodes)),
        dbname=cluster.env["TALLY_DATABASE_NAME"],
        user=cluster.env["TALLY_DATABASE_USER"],
        password=cluster.env["TALLY_DATABASE_PASSWORD"],
        target_session_attrs="primary",
    ) as conn:
        return [row[0] for row in conn.execute("SELECT lane FROM apply_state ORDER BY lane")]


def dead_letters(cluster: Cluster) -> int:
    with Redis.from_url(cluster.env["TALLY_JOURNAL_URL"]) as journal:
        return int(journal.hlen("dead-letters"))
