"""Backup and restore, in clusters of their own: everything as of a moment, a shard older than the journal, a journal older
than the shards or lost, and a cache that is newer. Nothing is counted twice, and nothing is lost that the journal has."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from redis import Redis

from benchmarks.chaos.subject import journal_of
from cluster import aof, backup, layout, processes, sentinels, state
from cluster.archive import Archive
from cluster.layout import Directory
from cluster.restore import RESTORED
from sharding import ring
from sharding.lanes import MOST
from sharding.slots import slot_of
from tests.support.cluster import Cluster, eventually, value_of
from tests.support.commands import MANAGE, ROOT, clean, up

AHEAD = 120 * 1_000_000  # microseconds by which a journal's clock is ahead of the time of day
SECONDS = 120.0  # for what takes a few on a machine that has nothing else to do
KEYS = [f"backup:{n}" for n in range(24)]
# Without the spill queues: what waited for longer than TALLY_STALE_SECONDS when the copy was opened has gone through one.
LEDGER = f"SELECT lane, id, writes FROM ledger WHERE lane < {MOST} ORDER BY 1, 2"


def on(shard: int) -> list[str]:
    """Keys of a shard."""
    owners = ring.plan(2)
    return [key for key in KEYS if owners[slot_of(key)] == shard]


def run(command: str, *arguments: object, succeeds: bool = True) -> str:
    """What `manage.py backup` or `restore` says."""
    line = [*MANAGE, command, *map(str, arguments)]
    done = subprocess.run(line, cwd=ROOT, env=clean(), capture_output=True, text=True, check=False)
    assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@dataclass
class Subject:
    """A cluster, and what is done with it."""

    cluster: Cluster
    client: httpx.Client

    def add(self, key: str, delta: int, token: str) -> Any:
        """The answer to an increment that is accepted."""
        headers = {"Idempotency-Key": token}
        answer = self.client.post(f"/v1/counters/{key}/increments", json={"delta": delta}, headers=headers)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def add_all(self, keys: list[str], delta: int, phase: str) -> dict[str, Any]:
        return {f"{phase}:{key}": self.add(key, delta, f"{phase}:{key}") for key in keys}

    def values(self, keys: list[str]) -> dict[str, int]:
        return {key: value_of(self.client, key) for key in keys}

    def status(self, write: dict[str, Any]) -> str:
        answer = self.client.get(f"/v1/writes/{write['id']}")
        return "unknown" if answer.status_code == 404 else str(answer.json()["status"])

    def rows(self, shard: int, query: str) -> list[tuple[Any, ...]]:
        """What a shard's primary answers to the superuser."""
        ports = [str(one["port"]) for one in self.cluster.processes("postgres", shard)]
        with psycopg.connect(
            host=",".join(["127.0.0.1"] * len(ports)),
            port=",".join(ports),
            dbname=self.cluster.env["TALLY_DATABASE_NAME"],
            user="postgres",
            password=layout.load_secrets(Directory(self.cluster.dir))["postgres"],
            target_session_attrs="primary",
        ) as conn:
            return conn.execute(query).fetchall()

    def digest(self, shard: int) -> tuple[str, int]:
        """Of all counters with their versions."""

        def compared() -> dict[str, Any] | None:
            found: dict[str, Any] = self.client.get(f"/v1/shards/{shard}/digest", params={"wait": 30}).json()
            return found if found.get("digest") else None

        found = eventually(compared, SECONDS)
        return found["digest"], found["counters"]

    def redis(self, name: str) -> Any:
        if name == "journal":
            return journal_of(self.cluster.env, decode_responses=True)
        return Redis.from_url(self.cluster.env[f"TALLY_{name.upper()}_URL"], decode_responses=True)

    def is_drained(self, shard: int | str = "*") -> bool:
        """Whether all that the journal had (for a shard) is applied and on its replicas."""
        with self.redis("journal") as journal:
            return not list(journal.scan_iter(f"journal:{shard}.*:positions"))

    @contextmanager
    def worker_away(self, shard: int) -> Iterator[None]:
        """Nothing of a shard is applied during the block."""
        worker = psutil.Process(self.cluster.processes("worker", shard)[0]["pid"])
        worker.suspend()
        try:
            yield
        finally:
            worker.resume()

    def kill_primary(self, shard: int) -> None:
        now = state.current(Directory(self.cluster.dir))
        primary = next(row for row in now.processes if row["shard"] == shard and row["name"] in now.primary_names)
        os.kill(primary["pid"], signal.SIGKILL)

    def fail_the_journal_over(self) -> None:
        """To its replica, which the archive follows."""
        directory = Directory(self.cluster.dir)
        wanted, secrets = layout.load(directory), layout.load_secrets(directory)
        assert wanted
        eventually(lambda: sentinels.all_follow(wanted, secrets), SECONDS)
        assert sentinels.fail_over(wanted, secrets["sentinel"])
        eventually(lambda: sentinels.all_follow(wanted, secrets), SECONDS)
        eventually(lambda: self.client.get("/health").json()["status"] == "ok", SECONDS)

    def replace_journal(self, aof_directory: Path | None) -> None:
        """SIGKILL the journal, and give it another disk: with this AOF, or with nothing."""
        row = self.cluster.processes("redis-journal")[0]
        supervisor = state.supervisor(state.current(Directory(self.cluster.dir)))
        assert supervisor
        supervisor.suspend()
        try:
            eventually(lambda: supervisor.status() == psutil.STATUS_STOPPED)
            server, disk = psutil.Process(row["pid"]), self.cluster.dir / "redis-journal" / aof.DIRECTORY
            server.kill()
            eventually(lambda: processes.is_gone(server))
            shutil.rmtree(disk)
            if aof_directory:
                shutil.copytree(aof_directory, disk)
        finally:
            supervisor.resume()
        eventually(lambda: self.cluster.processes("redis-journal")[0]["pid"] not in (row["pid"], None))
        eventually(lambda: self.client.get("/readyz").status_code == 200)


@dataclass
class Past:
    """What the source was, and the archive that it has left. `moment`: everything before it was accepted, not all of it
    applied; `then` is what that became."""

    source: Subject
    archive: Archive
    moment: datetime
    answers: dict[str, Any]
    then: dict[str, int]
    digests: list[tuple[str, int]]
    ledgers: list[list[tuple[Any, ...]]]
    end: ExitStack = field(default_factory=ExitStack)  # of the source
    later: dict[str, Any] = field(default_factory=dict)
    queued: dict[str, Any] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)


@contextmanager
def opened(directory: Path, *options: str) -> Iterator[Subject]:
    up(directory, "--port", "0", "--api", "1", *options)
    cluster = Cluster(directory)
    with cluster.client() as client:
        yield Subject(cluster, client)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory, put_away: Callable[[Path], None]) -> Iterator[Past]:
    """A cluster with an archive and a replica of its journal. While it is backed up, a primary dies; after that, the journal
    fails over."""
    directory, archive = tmp_path_factory.mktemp("source"), Archive(tmp_path_factory.mktemp("archive"))
    options = ("--shards", "2", "--replicas", "1", "--journal-replicas", "1", "--archive", str(archive.root))
    with ExitStack() as end:
        end.callback(put_away, directory)
        found = live(end.enter_context(opened(directory, *options)), archive)
        found.end = end
        yield found


def live(source: Subject, archive: Archive) -> Past:
    answers = source.add_all(KEYS, 1, "before")
    source.kill_primary(0)
    said = run("backup", archive.root, "--dir", source.cluster.dir)
    assert "whole from" in said
    source.fail_the_journal_over()
    answers |= source.add_all(KEYS, 10, "after")
    eventually(source.is_drained, SECONDS)

    with source.worker_away(1):
        answers |= source.add_all(on(1), 100, "waiting")
        eventually(lambda: source.is_drained(0), SECONDS)  # it has the idempotency keys of some of them
        moment = datetime.fromtimestamp(int(time.time()) + 1, UTC)
        time.sleep(max(0.0, moment.timestamp() - time.time()) + 0.1)
    eventually(source.is_drained, SECONDS)
    found = Past(
        source,
        archive,
        moment,
        answers,
        source.values(KEYS),
        [source.digest(shard) for shard in (0, 1)],
        [source.rows(shard, LEDGER) for shard in (0, 1)],
    )
    for key in KEYS:
        source.client.put(f"/v1/counters/{key}", json={"value": 5000}).raise_for_status()
    found.later = source.add_all(KEYS, 1000, "later")
    eventually(source.is_drained, SECONDS)
    found.last = dict.fromkeys(KEYS, 6000)
    return found


@pytest.fixture(scope="module")
def restored(past: Past, tmp_path_factory: pytest.TempPathFactory, put_away: Callable[[Path], None]) -> Iterator[Path]:
    """Everything as of the moment; it was not started yet."""
    directory = tmp_path_factory.mktemp("restored") / "cluster"
    run("restore", past.archive.root, "--to", directory, "--time", past.moment.isoformat())
    yield directory
    put_away(directory)


@pytest.fixture(scope="module")
def mixed(
    past: Past, restored: Path, tmp_path_factory: pytest.TempPathFactory, put_away: Callable[[Path], None]
) -> Iterator[tuple[Subject, Path]]:
    """Shard 0 as of the moment, everything else newer. Also: the journal of that moment. The source is needed no more."""
    directory = tmp_path_factory.mktemp("mixed") / "cluster"
    with past.source.worker_away(0):
        past.queued = past.source.add_all(on(0), 7, "queued")
        run("restore", past.archive.root, "--to", directory, "--replicas", "0", "--journal-replicas", "0")
    past.end.close()
    shutil.rmtree(directory / "shards" / "0")
    shutil.copytree(restored / "shards" / "0", directory / "shards" / "0")
    older = tmp_path_factory.mktemp("older") / aof.DIRECTORY
    shutil.copytree(restored / "redis-journal" / aof.DIRECTORY, older)
    try:
        with opened(directory) as subject:
            yield subject, older
    finally:
        put_away(directory)


def test_an_archive_that_fails_is_told(past: Past) -> None:
    """By both servers of the shard, and nothing is lost when it works again."""
    source, wal = past.source, past.archive.wal(1)

    def failing() -> set[tuple[str, str]]:
        text = source.cluster.metrics(source.cluster.processes("api")[0])
        return set(re.findall(r'^tally_wal_archive_failing\{node="([^"]+)",shard="1"\} (\S+)$', text, re.MULTILINE))

    nodes = ("shard-1-node-1", "shard-1-node-2")
    eventually(lambda: failing() == {(node, "0.0") for node in nodes}, SECONDS)
    away = wal.rename(wal.with_name("away"))
    try:
        source.rows(1, "SELECT pg_logical_emit_message(true, 'test', 'something to archive')")
        ((segment,),) = source.rows(1, backup.SWITCH)
        eventually(lambda: failing() == {(node, "1.0") for node in nodes}, SECONDS)
        assert "archive_wal: " in "".join(path.read_text() for path in source.cluster.dir.glob("logs/postgres-1-*.log"))
    finally:
        away.rename(wal)
    source.rows(1, "SELECT pg_logical_emit_message(true, 'test', 'something that wakes the archiver')")
    source.rows(1, backup.SWITCH)
    eventually(lambda: (wal / segment).exists() and failing() == {(node, "0.0") for node in nodes}, SECONDS)


def test_a_shard_older_than_the_journal(mixed: tuple[Subject, Path], past: Past) -> None:
    """Entries that the journal still has are applied once; those that it has forgotten are gone, and nothing waits for
    them."""
    subject, _ = mixed
    eventually(subject.is_drained, SECONDS)
    older, newer = on(0), on(1)
    assert subject.values(older) == {key: past.then[key] + 7 for key in older}
    assert subject.values(newer) == {key: past.last[key] for key in newer}
    assert {subject.status(write) for write in past.queued.values()} == {"applied"}
    assert {subject.status(past.later[f"later:{key}"]) for key in newer} == {"applied"}
    gone = past.later[f"later:{older[0]}"]
    assert subject.status(gone) == "unknown"
    began = time.monotonic()
    assert subject.client.get(f"/v1/counters/{older[0]}", params={"after": gone["id"]}).status_code == 404
    assert time.monotonic() - began < 10
    answer = subject.client.post(f"/v1/counters/{older[0]}/increments", json={"delta": 1}, params={"wait": 30}).json()
    assert (answer["status"], answer["value"]) == ("applied", past.then[older[0]] + 8)


def test_a_cache_newer_than_a_shard(mixed: tuple[Subject, Path], past: Past) -> None:
    """A value from after the moment would be answered for as long as it lives, and no read could replace it."""
    subject, _ = mixed
    key = on(0)[1]
    entry = f"6000 {int(time.time() * 1_000_000) + 2 * AHEAD} {int(time.time() * 1000) + 60_000}"
    with subject.redis("cache") as cache:
        cache.mset({f"c:{key}": entry, "c:of nobody": entry})
        assert subject.client.get(f"/v1/counters/{key}").json()["value"] == 6000
        with (
            subject.worker_away(0),
            subject.redis("journal") as journal,
        ):  # a batch of 1970, too: as if of a very old backup
            journal.zadd("journal:0.0:positions", {"of 1970, 16 byte": 1})
            journal.hset("journal:0.0:batches", "of 1970, 16 byte", "?")
            said = subject.cluster.manage("after_restore").stdout
            assert journal.hkeys("journal:0.0:poison") == ["of 1970, 16 byte"]
        assert "1 batches older than the ledger set aside" in said
        assert entry not in cache.mget(f"c:{key}", "c:of nobody")  # the first may be warm again
    assert subject.client.get(f"/v1/counters/{key}").json()["value"] == past.then[key] + 7


@pytest.mark.parametrize("is_lost", [False, True], ids=["older", "lost"])
def test_a_journal_older_than_the_shards(mixed: tuple[Subject, Path], past: Past, *, is_lost: bool) -> None:
    """Writes after it count, also on counters that were set later than the journal knows; writes before it count once, and
    their keys have the answers that they had."""
    subject, older = mixed
    keys = on(1)
    with subject.redis("journal") as journal:  # so that the shards are ahead of a journal without this clock
        journal.set("journal:clock", int(time.time() * 1_000_000) + AHEAD)
    for key in keys:
        subject.client.put(f"/v1/counters/{key}", json={"value": 40}).raise_for_status()
    phase = f"known-{is_lost}"
    known = past.answers | subject.add_all(KEYS, 10_000, phase)
    eventually(subject.is_drained, SECONDS)
    before = subject.values(KEYS)
    versions = {key: subject.client.get(f"/v1/counters/{key}").json()["version"] for key in keys}
    subject.replace_journal(None if is_lost else older)
    if not is_lost:  # its clock is behind: a set is taken for an old one, and void
        assert subject.client.put(f"/v1/counters/{keys[-1]}", json={"value": 41}).json().get("value") != 41
    said = subject.cluster.manage("after_restore").stdout
    assert max(versions.values()) <= int(said.split("positions go on after ")[1].split(";")[0])
    eventually(subject.is_drained, SECONDS)
    assert subject.values(KEYS) == before, "what the journal had was applied before"
    subject.add_all(keys[1:], 1, f"new-{is_lost}")
    eventually(lambda: subject.values(keys[1:]) == {key: before[key] + 1 for key in keys[1:]}, SECONDS)
    answer = subject.client.put(f"/v1/counters/{keys[0]}", json={"value": 3}).raise_for_status().json()
    assert (answer["value"], answer["version"] > versions[keys[0]]) == (3, True)
    deltas = {"before": 1, "after": 10, "waiting": 100, phase: 10_000}
    for token, first in known.items():
        assert subject.add(token.partition(":")[2], deltas[token.partition(":")[0]], token) == first, token
    eventually(subject.is_drained, SECONDS)
    assert subject.values(keys) == {key: before[key] + 1 for key in keys} | {keys[0]: 3}


def test_everything_as_of_a_moment(past: Past, restored: Path) -> None:
    """Also what was accepted by then and not applied. Replicas are copied from the restored primaries."""
    with opened(restored) as subject:
        eventually(subject.is_drained, SECONDS)
        assert subject.values(KEYS) == past.then
        assert [subject.rows(shard, LEDGER) for shard in (0, 1)] == past.ledgers
        for token, first in past.answers.items():
            phase, _, key = token.partition(":")
            assert subject.add(key, {"before": 1, "after": 10, "waiting": 100}[phase], token) == first, token
            assert subject.status(first) == "applied"
        assert {subject.status(write) for write in past.later.values()} == {"unknown"}
        assert [subject.digest(shard) for shard in (0, 1)] == past.digests
        eventually(lambda: subject.client.get("/health").json()["status"] == "ok", 60)
        copies = subject.client.get("/health").json()["redundancy"]["shards"]
        assert [one["copies"] for one in copies] == [2, 2]
        answer = subject.client.put(f"/v1/counters/{KEYS[0]}", json={"value": 1}).json()
        assert answer["value"] == 1
        assert not (restored / RESTORED).exists()
