"""A replicated journal, in a cluster with test_several_followers: its primary dies with its disk, and its replica falls
behind. Nothing that was acknowledged is lost."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.chaos.subject import journal_of
from cluster import layout, redis, sentinels
from cluster.layout import Directory
from counters.intake.copies import FENCED_MS
from tests.cluster import test_doors as doors
from tests.support.cluster import Cluster, eventually, frozen, value_of
from tests.support.load import assert_exact, load

AGAIN_SECONDS = 10.0  # within which writes are accepted again


class Journal:
    """The servers of the journal of a cluster, and its Sentinels."""

    def __init__(self, directory: Path) -> None:
        self.cluster = Cluster(directory)
        self._directory, self._secrets = Directory(directory), layout.load_secrets(Directory(directory))
        self._layout = layout.load(self._directory)
        assert self._layout is not None

    @property
    def primary(self) -> str:
        """The name of the primary, once two Sentinels agree."""
        assert self._layout
        wanted = self._layout
        port = eventually(lambda: sentinels.primary(wanted, self._secrets["sentinel"]))
        return next(name for name in wanted.journals if wanted.ports[name] == port)

    @property
    def replica(self) -> str:
        assert self._layout
        return next(name for name in self._layout.journals if name != self.primary)

    def ask(self, name: str, *command: Any) -> Any:
        """The answer of one server."""
        assert self._layout
        with redis.client(self._layout.ports[name], self._secrets["redis-journal"]) as server:
            return server.execute_command(*command)

    def sentinel_states(self) -> list[dict[str, Any]]:
        assert self._layout
        states = []
        for name in self._layout.sentinels:
            with redis.client(self._layout.ports[name], self._secrets["sentinel"]) as sentinel:
                states.append(sentinel.execute_command("SENTINEL MASTER", sentinels.SERVICE))
        return states

    def sentinel_periods(self) -> list[dict[str, str]]:
        assert self._layout
        found = []
        for name in self._layout.sentinels:
            with redis.client(self._layout.ports[name], self._secrets["sentinel"]) as sentinel:
                found.append(sentinel.execute_command("SENTINEL", "DEBUG"))
        return found

    def kill_primary(self, *, with_disk: bool) -> str:
        """SIGKILL the primary and delete all that it has. Returns its name."""
        name = self.primary
        victim = psutil.Process(
            next(one["pid"] for one in self.cluster.processes("redis-journal") if one["name"] == name)
        )
        victim.kill()
        victim.wait(10)
        if with_disk:
            shutil.rmtree(self._directory[name])
        return name

    def wait_for_copies(self) -> None:
        """Wait until every server has all and may be promoted."""
        with self.cluster.client() as client:
            eventually(lambda: client.get("/health").json()["status"] == "ok", 60)
        eventually(lambda: sentinels.all_follow(self._layout, self._secrets))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def journal(followed: Cluster) -> Journal:
    return Journal(followed.dir)


@pytest.fixture
def client(journal: Journal) -> Iterator[httpx.Client]:
    """Each test finds both copies, and leaves them."""
    journal.wait_for_copies()
    with journal.cluster.client() as client:
        yield client
    journal.wait_for_copies()


def test_a_new_cluster_can_fail_over(journal: Journal) -> None:
    """Sentinels that do not know the replica when the primary dies never learn of it: no write would be accepted again."""
    assert [found["num-slaves"] for found in journal.sentinel_states()] == [1, 1, 1]
    assert [found["INFO-PERIOD"] for found in journal.sentinel_periods()] == [str(sentinels.LOOK_MS)] * 3


def test_nothing_is_lost_with_the_disk_of_the_primary(journal: Journal, client: httpx.Client, key: str) -> None:
    """Three times: writes go on within seconds, reads all the time, and the server that lost its disk becomes a replica."""
    client.put(f"/v1/counters/{key}:read", json={"value": 7}).raise_for_status()
    with load(journal.cluster, key) as running:
        for _ in range(3):
            running.goes_on()
            began = time.monotonic()
            name = journal.kill_primary(with_disk=True)
            assert client.get(f"/v1/counters/{key}:read").json()["value"] == 7
            running.goes_on(10)
            again = time.monotonic() - began
            assert again < AGAIN_SECONDS, f"{name}: writes were accepted again after {again:.1f} s"
            assert journal.primary != name
            journal.wait_for_copies()
        running.goes_on()
    assert_exact(client, running)
    assert running.refused  # nothing was accepted in between


def test_a_write_that_the_replica_does_not_confirm_is_not_accepted(
    journal: Journal, client: httpx.Client, key: str
) -> None:
    """The replica hangs, still connected. The write may be counted; its repeat is accepted, and counts once."""
    token = {"Idempotency-Key": key}
    with frozen(*journal.cluster.named(journal.replica)):
        answer = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, headers=token)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1"), answer.text
        assert "may be counted" in answer.json()["detail"]
    eventually(
        lambda: client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, headers=token).status_code == 202
    )
    eventually(lambda: value_of(client, key) == 1)


def test_what_a_failover_loses_was_applied_in_no_lane(journal: Journal, client: httpx.Client, key: str) -> None:
    """The replica dies before it has read the write, the primary with its disk. The client repeats it: it is counted, once
    in each lane."""
    keys = [f"{key}:{n}" for n in range(40)]
    body = {"keys": keys, "deltas": [1] * len(keys)}
    token = {"Idempotency-Key": key}

    def values() -> set[int]:
        found = client.get("/v1/counters", params={"key": keys, "consistency": "primary"}).raise_for_status()
        return {one["value"] for one in found.json()["results"]}

    behind = journal.cluster.named(journal.replica)
    client.post("/v1/increments", json=body).raise_for_status()
    eventually(lambda: values() == {1}, pause=0.01)  # shifts of its lanes linger
    with frozen(*behind):
        answer = client.post("/v1/increments", json=body, headers=token)
        assert answer.status_code == 503, answer.text
        assert "may be counted" in answer.json()["detail"]
        assert values() == {1}
        journal.kill_primary(with_disk=True)
        psutil.Process(behind[0]["pid"]).kill()  # what it had received and not read is gone
    assert values() == {1}
    eventually(lambda: client.post("/v1/increments", json=body, headers=token).status_code == 202, 60)
    eventually(lambda: values() == {2})
    journal.wait_for_copies()
    assert values() == {2}


def test_entries_of_another_primary_are_not_applied(journal: Journal, client: httpx.Client) -> None:
    """They were read from a server that is the primary no more: what the present one has confirmed says nothing of them."""
    client.get("/livez").raise_for_status()
    check = "from counters.intake.confirmed import Confirmed; Confirmed().check(b'another', 1)"
    done = journal.cluster.manage("shell", "-c", check, check=False)
    assert done.returncode
    assert "JournalUnavailable: the journal has another primary now" in done.stderr


def test_that_a_replica_of_a_shard_differs_outlives_a_failover(journal: Journal, client: httpx.Client) -> None:
    """The mark is on both disks, or that is told: without it a promoted server would be copied from."""
    client.get("/livez").raise_for_status()
    store = "from replication import healing; healing._store_differing('9/node', healing.Differing(1, 'found'))"
    mark = ("HGET", "healing:differing", "9/node")
    assert "difference_unconfirmed" not in (done := journal.cluster.manage("shell", "-c", store)).stdout + done.stderr
    replica = journal.replica
    assert "found" in journal.ask(replica, *mark)
    process = psutil.Process(
        next(one["pid"] for one in journal.cluster.processes("redis-journal") if one["name"] == replica)
    )
    process.suspend()
    try:
        done = journal.cluster.manage("shell", "-c", store)
    finally:
        process.resume()
        journal.ask(journal.primary, "HDEL", *mark[1:])
    assert "difference_unconfirmed" in done.stdout + done.stderr


def test_a_replica_that_falls_behind_is_not_promoted(journal: Journal, client: httpx.Client, key: str) -> None:
    """It is alive, and the Sentinels see it, but it lost its link. First writes are refused, then they go on with one copy,
    and everybody is told. The primary dies: only it has them, so no other takes its place, and it comes back with them."""
    primary, behind = journal.primary, journal.replica
    password = journal.ask(behind, "CONFIG", "GET", "masterauth")
    password = password["masterauth"] if isinstance(password, dict) else password[1]
    journal.ask(behind, "CONFIG", "SET", "masterauth", "wrong")
    journal.ask(primary, "CLIENT", "KILL", "TYPE", "replica")
    try:
        refused = client.post(f"/v1/counters/{key}:refused/increments", json={"delta": 1})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert "too few" in refused.json()["detail"]
        with load(journal.cluster, key) as running:
            running.goes_on()
            assert value_of(client, f"{key}:refused") == 0
            health = client.get("/health").json()
            component = next(one for one in health["components"] if one["name"] == "journal-copies")
            assert (health["status"], component["status"]) == ("degraded", "down")
            assert "1 of 2 copies; writes are accepted with one copy" in component["detail"]
            assert (health["redundancy"]["journal"], health["redundancy"]["journal_wanted"]) == (1, 2)
            assert all(state["down-after-milliseconds"] == FENCED_MS for state in journal.sentinel_states())
            journal.kill_primary(with_disk=False)
            running.goes_on()
            assert journal.primary == primary
            journal.ask(behind, "CONFIG", "SET", "masterauth", password)
            journal.wait_for_copies()
            eventually(lambda: all(one["down-after-milliseconds"] != FENCED_MS for one in journal.sentinel_states()))
            running.goes_on()
            journal.kill_primary(with_disk=True)
            running.goes_on()
        assert journal.primary == behind
    finally:
        journal.ask(behind, "CONFIG", "SET", "masterauth", password)
    assert_exact(client, running)


def test_an_applied_write_that_the_new_primary_lacks_keeps_its_version(
    journal: Journal, client: httpx.Client, key: str
) -> None:
    """A new primary's clock is older than what a shard has applied: it is set past that before a write is taken."""
    before = client.put(f"/v1/counters/{key}", json={"value": 1}).json()["version"]
    server = journal_of(journal.cluster.env)
    server.set("journal:clock", 1)
    server.set("journal:history", "of another primary")
    assert client.put(f"/v1/counters/{key}", json={"value": 2}).json()["version"] > before
    assert int(server.get("journal:clock")) > before


def test_its_doors_are_closed(journal: Journal, client: httpx.Client) -> None:
    """Also after failovers, for which servers and Sentinels have written their configuration files anew."""
    client.get("/livez").raise_for_status()
    secrets, processes = doors.secrets_of(journal.cluster), doors.processes_of(journal.cluster)
    doors.test_every_port_refuses_strangers(journal.cluster, processes, secrets)
    doors.test_no_file_of_a_cluster_is_for_others(journal.cluster, secrets)
    doors.test_no_process_shows_a_secret(processes, secrets)
