"""From the version before to this one, process by process under load, and back with a restart. Nothing is lost or counted
twice."""

from __future__ import annotations

import compileall
import itertools
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from redis import Redis
from redis.exceptions import RedisError

from benchmarks.chaos.load import Load
from benchmarks.chaos.mix import SHARES, Mixer
from benchmarks.chaos.probes import Epoch, Pulse, Reader, Waiter
from benchmarks.chaos.subject import Subject
from benchmarks.chaos.trial import Trial
from benchmarks.chaos.verdict import judge
from cluster import release, state
from cluster.layout import Directory
from tests.support.cluster import Cluster, eventually, value_of
from tests.support.commands import LIMITS, ROOT, clean

BEFORE = "2c52639"  # the version before
READS_SECONDS = 10.0  # the longest time without a successful read of a shard
WRITES_SECONDS = 30.0  # the longest time without an accepted write: the journal's failover is the longest pause
SMALL = ("--port", "0", "--shards", "1", "--replicas", "1", "--journal-replicas", "1")


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
    for room in (*release.PRODUCT, "cluster"):  # once, and not in each of the processes that start at the same time
        compileall.compile_dir(tree / room, quiet=1)
    return tree


@pytest.fixture(scope="module")
def broken_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This code with an API process that does not start."""
    tree = tmp_path_factory.mktemp("broken")
    for room in (*release.PRODUCT, "cluster"):
        shutil.copytree(ROOT / room, tree / room)
    shutil.copy(ROOT / "manage.py", tree)
    (tree / "counter_project" / "asgi.py").write_text('raise SystemExit("error: broken on purpose")\n')
    return tree


@pytest.fixture(scope="module")
def directory(
    old_tree: Path, tmp_path_factory: pytest.TempPathFactory, put_away: Callable[[Path], None]
) -> Iterator[Path]:
    """A cluster of the version before: one shard, its journal and its database with a replica each.

    That version does not notice if another cluster takes nginx's port between its choice and its use: that one answers, and
    does not know the key. Then it is started again, on other ports.
    """
    for _ in range(3):
        home = tmp_path_factory.mktemp("upgraded")
        try:
            done = manage(old_tree, home, "up", *SMALL, "--detach")
            assert done.returncode == 0, done.stderr
            with Cluster(home).client() as client:
                if client.get("/v1/counters", params={"key": "any"}).status_code == 401:
                    continue
            yield home
            return
        finally:
            put_away(home)
    pytest.fail("three times another cluster had taken a port")


def manage(tree: Path, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`manage.py cluster …` of a tree, on the cluster in a directory. The version before knows no `LIMITS`."""
    line = [sys.executable, str(tree / "manage.py"), "cluster", *arguments, "--dir", str(directory)]
    env = {name: value for name, value in clean().items() if name not in LIMITS}
    return subprocess.run(line, cwd=tree, env=env, check=False, capture_output=True, text=True)


class CacheLife(Epoch):
    """Tells by the cache's own id which of its lives a read belongs to: an upgrade empties the cache."""

    def __init__(self, url: str) -> None:
        self._cache: Any = Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1)
        self._unknown = itertools.count(1)

    @property
    def number(self) -> int:  # type: ignore[override]
        try:
            return int(self._cache.info("server")["run_id"], 16)
        except (RedisError, OSError):
            return -next(self._unknown)


def rows(directory: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in state.read(Directory(directory)).processes}


def home_of(row: dict[str, Any]) -> str:
    """The folder that a process runs in."""
    return psutil.Process(row["pid"]).cwd()


@pytest.mark.timeout(900)  # it replaces everything, one after the other
def test_an_upgrade_under_load_is_exact(old_tree: Path, broken_tree: Path, directory: Path) -> None:
    """The first one stops after the workers, at an API process that does not start; the second one continues and replaces
    everything. Likes begin then: the version before has none."""
    before = rows(directory)
    assert home_of(before["api-1"]) == str(old_tree)
    subject = Subject(directory)
    life = CacheLife(subject.env["TALLY_CACHE_URL"])
    load = Load(subject, f"upgrade:{time.time_ns():x}:", 1, clients=2, epoch=life)
    threads: list[Mixer | Pulse | Waiter | Reader] = [*load.mixers, load.pulse, *load.waiters, *load.readers]
    for one in threads:
        one.pause *= 4  # seldom enough to leave the processor to the upgrade, often enough for gaps of seconds
    for mixer in load.mixers:
        mixer.shares = {**SHARES, "like": 0}
    timelines = [subject.timeline(shard) for shard in range(len(subject.shards))]
    load.start()
    started = time.monotonic()
    try:
        stopped = manage(broken_tree, directory, "upgrade")
        between = rows(directory)
        workers = {name for name, row in between.items() if row["role"] in {"worker", "spill-worker"}}
        homes = {home_of(between[name]) for name in workers}
        done = manage(ROOT, directory, "upgrade")
        for mixer in load.mixers:
            mixer.shares = SHARES
        eventually(lambda: sum(one.likes.acknowledged for one in load.expected) > 100, 60)
    finally:
        load.stop()

    assert stopped.returncode == 1
    assert "the upgrade stopped: api-1 ends as soon as it starts" in stopped.stderr
    assert "broken on purpose" in stopped.stderr
    assert "run `cluster upgrade` again" in stopped.stderr
    assert homes == {str(broken_tree)}
    unharmed = before.keys() - workers - {"api-1"}
    assert {name: between[name]["pid"] for name in unharmed} == {name: before[name]["pid"] for name in unharmed}

    assert done.returncode == 0, done.stderr
    after = rows(directory)
    assert after.keys() == before.keys() | {"disks"}, "a process that the version before did not have"
    assert [name for name in before if after[name]["pid"] == before[name]["pid"]] == ["nginx"]
    assert {home_of(row) for row in after.values() if row["role"] in release.ROLES} == {str(ROOT)}
    assert after["nginx"]["restarts"] == 0

    verdict = judge(subject, load, Trial(started, time.monotonic(), (started, started), [], timelines))
    assert verdict.findings == []
    assert verdict.figures["writes acknowledged"] > 200
    assert max(one.longest_gap(started, one.last) for one in load.reads) < READS_SECONDS
    assert load.pulse.successes.longest_gap(started, load.pulse.successes.last) < WRITES_SECONDS


def test_a_second_upgrade_replaces_nothing_and_takes_over_from_a_supervisor_that_was_killed(directory: Path) -> None:
    before = rows(directory)
    supervisor = psutil.Process(state.read(Directory(directory)).supervisor["pid"])
    supervisor.kill()
    supervisor.wait(10)
    done = manage(ROOT, directory, "upgrade")
    assert done.returncode == 0, done.stderr
    assert {name: row["pid"] for name, row in rows(directory).items()} == {
        name: row["pid"] for name, row in before.items()
    }
    worker = psutil.Process(before["worker-0-1"]["pid"])
    worker.kill()
    eventually(lambda: (row := rows(directory)["worker-0-1"])["state"] == "running" and row["pid"] != worker.pid)


def test_the_version_before_goes_on_with_what_this_one_has_written(old_tree: Path, directory: Path) -> None:
    """Also with what only the journal has: plain writes, a set between them, a bulk write, an Idempotency-Key."""
    keys = [f"back:{n}" for n in range(10)]
    token = {"Idempotency-Key": uuid4().hex}
    with Cluster(directory).client() as client:
        add_all(client, keys, 2)
        once = add(client, keys[0], 5, token)
        eventually(lambda: value_of(client, keys[0]) == 7)
        assert manage(ROOT, directory, "scale", "worker=0").returncode == 0
        queued = add(client, keys[1], 10, {})
        with pytest.raises(httpx.ReadTimeout):  # it waits to be applied; the journal has it by then
            client.put(f"/v1/counters/{keys[2]}", json={"value": 1000}, timeout=1)
        add_all(client, keys, 3)
    assert manage(ROOT, directory, "down").returncode == 0

    found = manage(old_tree, directory, "up", "--detach")
    assert found.returncode == 0, found.stderr
    assert home_of(rows(directory)["api-1"]) == str(old_tree)
    assert manage(old_tree, directory, "scale", "worker=1").returncode == 0
    expected = dict.fromkeys(keys, 5) | {keys[0]: 10, keys[1]: 15, keys[2]: 1003}
    with Cluster(directory).client() as client:
        eventually(lambda: {key: value_of(client, key) for key in keys} == expected)
        assert client.get(f"/v1/writes/{queued['id']}").json()["status"] == "applied"
        assert add(client, keys[0], 5, token) == once
        assert client.put(f"/v1/counters/{keys[3]}", json={"value": 5}).json()["value"] == 5


def test_a_shard_from_before_lanes_is_refused(directory: Path) -> None:
    """Its journal has another name, which nothing reads."""
    with Subject(directory).database(0) as conn:
        conn.execute("UPDATE shard_state SET lanes = NULL")
    done = Cluster(directory).manage("migrate_all", check=False)
    assert done.returncode == 1
    assert "from before there were lanes" in done.stderr


def add(client: httpx.Client, key: str, delta: int, headers: dict[str, str]) -> dict[str, Any]:
    answer = client.post(f"/v1/counters/{key}/increments", json={"delta": delta}, headers=headers).raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def add_all(client: httpx.Client, keys: list[str], delta: int) -> None:
    client.post(
        "/v1/increments", json={"increments": [{"key": key, "delta": delta} for key in keys]}
    ).raise_for_status()
