"""Steering a shard through the API, against real Patroni clusters: write quorum, switchover, failover, rejoin, reinitialise, delays."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from counters.intake import journal
from replication import patroni
from replication.models import Intervention
from sharding import databases, topology
from sharding.breakers import cache_redis
from tests.conftest import Cluster, eventually, value_of
from tests.test_applier import rows
from tests.test_faults import assert_exact, load, primary_of

SHARD = 1
URL = f"/v1/shards/{SHARD}"
ASYNCHRONOUS = {"quorum": 0, "strict": False, "synchronous_commit": "on", "reason": "a test ends"}


@pytest.fixture(autouse=True)
def whole(cluster: Cluster, client: httpx.Client) -> Iterator[None]:
    """Each test finds every component up and the shards asynchronous, and leaves them so."""
    cluster.wait_until_whole()
    yield
    cluster.wait_until_whole()
    if any(one["quorum"] or one["strict"] for one in client.get("/v1/shards/quorum").json()["results"]):
        eventually(lambda: client.put("/v1/shards/quorum", json=ASYNCHRONOUS).status_code == 200)


def replicas_of(client: httpx.Client, shard: int = SHARD) -> list[dict[str, Any]]:
    answer = client.get(f"/v1/shards/{shard}/replicas")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    return found


def one_of(client: httpx.Client, role: str, shard: int = SHARD) -> dict[str, Any]:
    found: dict[str, Any] = eventually(lambda: next((one for one in replicas_of(client, shard) if one["role"] == role), None))
    return found


def key_on(shard: int, key: str) -> str:
    return next(one for n in range(99) if topology.current().shard_of(one := f"{key}:{n}") == shard)


def shown(shard: int, name: str) -> str:
    setting: str = rows(shard, "SELECT current_setting(%s)", name)[0][0]
    return setting


@contextmanager
def replica_away(cluster: Cluster, client: httpx.Client, shard: int = SHARD) -> Iterator[str]:
    """The shard's replica is gone, and its Patroni stands still, so that nobody starts it again."""
    replica = one_of(client, "replica", shard)
    node = next(one for one in cluster.processes("postgres", shard) if one["port"] == replica["port"])
    supervisor = psutil.Process(next(one for one in cluster.processes("patroni", shard) if one["name"][-1] == node["name"][-1])["pid"])
    supervisor.suspend()
    try:
        os.kill(node["pid"], signal.SIGKILL)
        eventually(lambda: rows(shard, "SELECT count(*) FROM pg_stat_replication") == [(0,)])
        yield replica["node"]
    finally:
        supervisor.resume()
    eventually(lambda: rows(shard, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == [(1,)], 60)


# Write quorum


def test_a_quorum_is_in_force_within_three_seconds_and_survives_a_failover(cluster: Cluster, client: httpx.Client, key: str) -> None:
    for number, names in ((1, "ANY 1 ("), (0, ""), (1, "ANY 1 (")):
        started = time.monotonic()
        answer = client.put(f"{URL}/quorum", json={"quorum": number})
        assert time.monotonic() - started < 3
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert (said["quorum"], said["confirming"], said["in_force"], said["following"]) == (number, number, True, 1)
        assert shown(SHARD, "synchronous_standby_names").startswith(names)
        assert bool(shown(SHARD, "synchronous_standby_names")) is bool(number)
        assert shown(0, "synchronous_standby_names") == "", "the other shard is left alone"
    assert one_of(client, "replica")["sync_state"] == "quorum"
    old = primary_of(cluster, SHARD)
    os.kill(old["pid"], signal.SIGKILL)
    eventually(lambda: primary_of(cluster, SHARD)["name"] != old["name"], 60)
    eventually(lambda: client.get(f"{URL}/quorum").json()["in_force"], 60)
    assert shown(SHARD, "synchronous_standby_names").startswith("ANY 1 (")


def test_what_confirming_means_is_a_setting(client: httpx.Client) -> None:
    answer = client.put(f"{URL}/quorum", json={"quorum": 1, "synchronous_commit": "remote_apply", "reason": "reads follow writes"})
    assert (answer.status_code, answer.json()["synchronous_commit"]) == (200, "remote_apply"), answer.text
    assert shown(SHARD, "synchronous_commit") == "remote_apply"
    assert client.put(f"{URL}/quorum", json={"quorum": 1}).json()["synchronous_commit"] == "remote_apply", "what is left out stays"


def test_one_call_for_all_shards(client: httpx.Client) -> None:
    answer = client.put("/v1/shards/quorum", json={"quorum": 1, "reason": "be sure"})
    assert answer.status_code == 200, answer.text
    assert [(one["shard"], one["quorum"], one["in_force"]) for one in answer.json()["results"]] == [(0, 1, True), (1, 1, True)]
    assert all(shown(shard, "synchronous_standby_names") for shard in (0, 1))
    glance = client.get("/v1/shards").json()["results"]
    assert [(one["shard"], one["quorum"]["quorum"], one["following"]) for one in glance] == [(0, 1, 1), (1, 1, 1)]
    assert sum(one["slots"] for one in glance) == 1024
    assert glance[1]["primary"] == one_of(client, "primary")["node"]


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"quorum": 2}, 409, "shard-1-node-"),
        ({"quorum": -1}, 400, "quorum"),
        ({"quorum": "1"}, 400, "quorum"),
        ({"quorum": 1.5}, 400, "quorum"),
        ({}, 400, "quorum"),
        ({"quorum": 1, "synchronous_commit": "off"}, 400, "synchronous_commit"),
        ({"quorum": 1, "strikt": True}, 400, "strikt"),
    ],
)
def test_a_quorum_that_cannot_be_is_refused_with_the_reason(client: httpx.Client, body: dict[str, Any], status: int, word: str) -> None:
    answer = client.put(f"{URL}/quorum", json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert word in answer.text
    assert client.get(f"{URL}/quorum").json()["quorum"] == 0


def test_raised_and_lowered_under_load_nothing_is_lost(cluster: Cluster, client: httpx.Client, key: str) -> None:
    with load(cluster, key) as running:
        for number, strict in ((1, False), (0, False), (1, True), (0, True), (1, False), (0, False)):
            answer = client.put(f"{URL}/quorum", json={"quorum": number, "strict": strict})
            assert answer.status_code == 200, answer.text
            time.sleep(0.3)
    assert_exact(client, running)


def test_a_strict_quorum_that_is_lost_makes_writes_wait(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """They are accepted, stay in the journal and are not applied; when the replica is back, all of them are, once."""
    key = key_on(SHARD, key)
    assert client.put(f"{URL}/quorum", json={"quorum": 1, "strict": True}).status_code == 200
    client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 20}).raise_for_status()
    with replica_away(cluster, client):
        waited = client.post(f"/v1/counters/{key}/increments", json={"delta": 10}, params={"wait": 4})
        assert (waited.status_code, waited.json()["status"]) == (202, "queued")
        accepted = [client.post(f"/v1/counters/{key}/increments", json={"delta": 100}) for _ in range(5)]
        assert {one.status_code for one in accepted} == {202}
        time.sleep(3)
        assert journal.depth(SHARD) >= 2
        assert client.get(f"/v1/writes/{accepted[-1].json()['id']}").json()["status"] == "queued"
        now = client.get(f"{URL}/quorum").json()
        assert (now["in_force"], now["following"], now["quorum"]) == (False, 0, 1)
    eventually(lambda: value_of(client, key) == 511, 60)
    eventually(lambda: journal.depth(SHARD) == 0, 60)
    eventually(lambda: client.get(f"{URL}/quorum").json()["in_force"], 30)
    assert value_of(client, key) == 511


def test_a_quorum_that_is_lost_and_not_strict_lets_writes_go_on(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """With what is left; but their journal entries stay until the replica has them (I3)."""
    key = key_on(SHARD, key)
    assert client.put(f"{URL}/quorum", json={"quorum": 1, "strict": False}).status_code == 200
    with replica_away(cluster, client):
        for turn in range(1, 4):
            answer = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 20})
            assert (answer.status_code, answer.json()["value"]) == (200, turn), answer.text
        assert journal.depth(SHARD) >= 1
        assert client.get(f"{URL}/quorum").json()["confirming"] == 0
    eventually(lambda: journal.depth(SHARD) == 0, 60)
    eventually(lambda: client.get(f"{URL}/quorum").json()["confirming"] == 1, 30)
    assert value_of(client, key) == 3


def test_a_lost_quorum_can_be_lowered(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """Of shard 0, where the control database is: what an operator does about it must not wait for the replica that is gone."""
    key = key_on(0, key)
    assert client.put("/v1/shards/0/quorum", json={"quorum": 1, "strict": True}).status_code == 200
    with replica_away(cluster, client, 0):
        waited = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 1})
        assert waited.status_code == 202
        answer = client.put("/v1/shards/0/quorum", json={"quorum": 0, "reason": "the replica is gone"})
        assert answer.status_code == 200, answer.text
        eventually(lambda: value_of(client, key) == 1, 30)
        assert Intervention.objects.filter(shard=0, reason="the replica is gone", outcome="in force").exists()


# Another primary


class Reads:
    """Reads without the cache, of a replica and of the primary, until told to stop; `failed` are the answers that were not 200."""

    def __init__(self, cluster: Cluster, key: str) -> None:
        self.cluster, self.key = cluster, key
        self.failed: list[str] = []
        self.done = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in ("eventual", "primary")]

    def __enter__(self) -> Reads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, consistency: str) -> None:
        with self.cluster.client() as client:
            while not self._stop.is_set():
                if consistency == "eventual":
                    cache_redis().delete(f"c:{self.key}")
                answer = client.get(f"/v1/counters/{self.key}", params={"consistency": consistency})
                self.done += 1
                if answer.status_code != 200 or answer.json()["value"] != 7:
                    self.failed.append(f"{consistency}: {answer.status_code} {answer.text}")
                time.sleep(0.02)


def test_a_switchover_refuses_no_write_and_fails_no_read(cluster: Cluster, client: httpx.Client, key: str) -> None:
    steady, old = key_on(SHARD, f"{key}:steady"), one_of(client, "primary")["node"]
    client.put(f"/v1/counters/{steady}", json={"value": 7}).raise_for_status()
    candidate = one_of(client, "replica")["node"]
    with load(cluster, key) as running, Reads(cluster, steady) as reads:
        time.sleep(0.5)
        answer = client.post(f"{URL}/switchover", json={"candidate": candidate, "reason": "a new disk for node 1"})
        assert (answer.status_code, answer.json()) == (200, {"shard": SHARD, "primary": candidate}), answer.text
        put = client.put(f"/v1/counters/{steady}", json={"value": 7})
        assert put.status_code == 200, put.text
        time.sleep(2)
    assert reads.failed == []
    assert reads.done > 50
    assert running.refused == 0
    assert_exact(client, running)
    eventually(lambda: (one_of(client, "replica")["node"], one_of(client, "replica")["state"]) == (old, "streaming"), 60)
    kept = Intervention.objects.get(shard=SHARD, action="switchover", reason="a new disk for node 1")
    assert kept.by.startswith("API key local-cluster (")
    assert kept.node == candidate
    assert candidate in kept.outcome
    answer = client.post(f"{URL}/switchover", json={"reason": "and back"})
    assert (answer.status_code, answer.json()["primary"]) == (200, old), answer.text


def test_a_failover_makes_a_replica_the_primary(cluster: Cluster, client: httpx.Client, key: str) -> None:
    candidate = one_of(client, "replica")["node"]
    answer = client.post(f"{URL}/failover", json={"candidate": candidate, "reason": "a drill"})
    assert (answer.status_code, answer.json()["primary"]) == (200, candidate), answer.text
    client.post(f"/v1/counters/{key_on(SHARD, key)}/increments", json={"delta": 1}, params={"wait": 20}).raise_for_status()


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("switchover", {"candidate": "nobody", "reason": "x"}, 404, "nobody"),
        ("switchover", {"candidate": "PRIMARY", "reason": "x"}, 409, "primary already"),
        ("switchover", {}, 400, "reason"),
        ("switchover", {"reason": ""}, 400, "reason"),
        ("failover", {"reason": "x"}, 400, "candidate"),
        ("failover", {"candidate": "PRIMARY", "reason": "x"}, 409, "primary already"),
        ("replicas/PRIMARY/reinitialise", {"reason": "x"}, 409, "is the primary"),
        ("replicas/nobody/reinitialise", {"reason": "x"}, 404, "nobody"),
        ("replicas/PRIMARY/rejoin", {"reason": "x"}, 409, "is the primary"),
    ],
)
def test_what_cannot_be_done_is_refused(client: httpx.Client, path: str, body: dict[str, Any], status: int, word: str) -> None:
    primary = one_of(client, "primary")["node"]
    asked = {name: primary if value == "PRIMARY" else value for name, value in body.items()}
    answer = client.post(f"{URL}/{path.replace('PRIMARY', primary)}", json=asked)
    assert (answer.status_code, word in answer.text) == (status, True), answer.text
    assert one_of(client, "primary")["node"] == primary


@pytest.mark.parametrize("path", ["/v1/shards", f"{URL}/replicas", f"{URL}/quorum", "/v1/shards/quorum"])
def test_only_staff_may_look_and_steer(cluster: Cluster, path: str) -> None:
    with cluster.client("") as anonymous:
        assert anonymous.get(path).status_code == 401
        assert anonymous.post(f"{URL}/switchover", json={"reason": "x"}).status_code == 401
    key = cluster.manage("make_key", "writer", "--scope", "write").stdout.split()[-1]
    with cluster.client(key) as writer:
        assert writer.get(path).status_code == 403
        assert writer.put(f"{URL}/quorum", json={"quorum": 0}).status_code == 403
        assert writer.post(f"{URL}/switchover", json={"reason": "x"}).status_code == 403


@pytest.mark.parametrize("shard", ["2", "-1", "x", "00000"])
def test_a_shard_that_is_none_is_unknown(client: httpx.Client, shard: str) -> None:
    assert client.get(f"/v1/shards/{shard}/replicas").status_code == 404


# Servers


def test_every_server_is_told(cluster: Cluster, client: httpx.Client, key: str) -> None:
    client.post(f"/v1/counters/{key_on(SHARD, key)}/increments", json={"delta": 1}, params={"wait": 20}).raise_for_status()
    primary, replica = one_of(client, "primary"), one_of(client, "replica")
    assert (primary["state"], replica["state"]) == ("running", "streaming")
    assert primary["timeline"] == replica["timeline"] >= 1
    assert primary["write"] is primary["replay"] is None
    eventually(lambda: one_of(client, "replica")["replay"] == {"bytes": 0, "seconds": 0.0})
    assert replica["sync_state"] == "async"
    assert replica["uptime_seconds"] > 0
    assert {primary["lsn"][0], "/"} <= set(primary["lsn"])
    ports = {one["port"] for one in cluster.processes("postgres", SHARD)}
    assert {primary["port"], replica["port"]} == ports
    shown = json.loads(cluster.manage("replicas", "--json").stdout)
    assert [{one["node"] for one in shard["replicas"]} for shard in shown][SHARD] == {primary["node"], replica["node"]}
    table = cluster.manage("replicas", "--once", "--shard", str(SHARD)).stdout
    assert primary["node"] in table
    assert "streaming" in table
    assert "shard 0" not in table


def test_a_replica_that_is_away_is_told_so(cluster: Cluster, client: httpx.Client) -> None:
    with replica_away(cluster, client) as node:
        row = eventually(lambda: next(one for one in replicas_of(client) if one["node"] == node and one["state"] != "streaming"))
        assert row["flush"] is None


def test_a_replica_is_copied_anew(cluster: Cluster, client: httpx.Client, key: str) -> None:
    key, replica = key_on(SHARD, key), one_of(client, "replica")
    before = system_start(replica)
    answer = client.post(f"{URL}/replicas/{replica['node']}/reinitialise", json={"reason": "its data differ"})
    assert answer.status_code == 202, answer.text
    client.post(f"/v1/counters/{key}/increments", json={"delta": 5}, params={"wait": 20}).raise_for_status()
    eventually(lambda: system_start(replica) > before, 60)
    eventually(lambda: (one := one_of(client, "replica"))["state"] == "streaming" and one["replay"]["bytes"] == 0, 60)
    with directly(replica) as conn:
        assert conn.execute("SELECT value FROM counter WHERE key = %s", (key,)).fetchall() == [(5,)]


def test_a_replica_rejoins(cluster: Cluster, client: httpx.Client) -> None:
    replica = one_of(client, "replica")
    before = system_start(replica)
    answer = client.post(f"{URL}/replicas/{replica['node']}/rejoin", json={"reason": "it does not follow"})
    assert answer.status_code == 200, answer.text
    eventually(lambda: system_start(replica) > before, 30)
    eventually(lambda: one_of(client, "replica")["state"] == "streaming", 30)


@contextmanager
def directly(node: dict[str, Any]) -> Iterator[psycopg.Connection[Any]]:
    address = {"host": node["host"], "port": str(node["port"]), "target_session_attrs": "any"}
    with databases.connect(databases.primary(SHARD), timeout=5, autocommit=True, **address) as conn:
        yield conn


def system_start(node: dict[str, Any]) -> float:
    """When this server's PostgreSQL was started; 0 while it is away."""
    try:
        with directly(node) as conn:
            started: float = conn.execute("SELECT extract(epoch FROM pg_postmaster_start_time())::float8").fetchall()[0][0]
            return started
    except psycopg.OperationalError:
        return 0.0


# Delays


@contextmanager
def delayed(client: httpx.Client, delay: str) -> Iterator[dict[str, Any]]:
    """The shard's replica applies each commit so much later."""
    replica = one_of(client, "replica")
    answer = client.put(f"{URL}/replicas/{replica['node']}/delay", json={"delay": delay, "reason": "to show lag"})
    assert answer.status_code == 200, answer.text
    try:
        yield answer.json()
    finally:
        ended = client.put(f"{URL}/replicas/{replica['node']}/delay", json={"delay": "0ms"})
        assert (ended.status_code, ended.json()["apply_delay_ms"]) == (200, 0), ended.text


def test_a_replica_is_delayed(client: httpx.Client, key: str) -> None:
    key = key_on(SHARD, key)
    with delayed(client, "700ms..900ms") as said:
        assert 700 <= said["apply_delay_ms"] <= 900
        client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 20}).raise_for_status()
        row = one_of(client, "replica")
        assert row["replay"]["bytes"] > 0
        assert row["flush"]["bytes"] == 0, "it flushes at once"
        eventually(lambda: one_of(client, "replica")["apply_delay_ms"] == said["apply_delay_ms"])


@pytest.mark.parametrize("delay", ["", "1", "500ms..50ms", "2h", 5])
def test_a_bad_delay_is_refused(client: httpx.Client, delay: Any) -> None:
    answer = client.put(f"{URL}/replicas/{one_of(client, 'replica')['node']}/delay", json={"delay": delay})
    assert (answer.status_code, "delay" in answer.text) == (400, True), answer.text


def test_a_replica_that_lags_is_left_out_of_reads_and_comes_back(cluster: Cluster, client: httpx.Client, key: str) -> None:
    key = key_on(SHARD, key)

    def source() -> str:
        cache_redis().delete(f"c:{key}")
        found: str = client.get(f"/v1/counters/{key}").json()["source"]
        return found

    eventually(lambda: source() == "replica")
    with delayed(client, "8s"):
        for turn in range(1, 31):
            write = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 20}).json()
            assert write["value"] == turn
            time.sleep(0.1)
        for _ in range(10):  # the limit is 2 s, and 3 s have passed
            cache_redis().delete(f"c:{key}")
            read = client.get(f"/v1/counters/{key}").json()
            assert (read["source"], read["value"]) == ("primary", 30)
    eventually(lambda: source() == "replica", 30)


# Reads that follow a write


def test_a_read_after_a_write_is_never_older(client: httpx.Client, key: str) -> None:
    """Whatever lags: the answer has every write so far of the one who asks."""
    key, other = key_on(SHARD, key), key_on(SHARD, f"{key}:other")
    sources = set()
    with delayed(client, "150ms"):
        for turn in range(1, 16):
            write = client.post("/v1/increments", json={"increments": [{"key": one, "delta": 1} for one in (key, other)]}).json()
            read = client.get(f"/v1/counters/{key}", params={"after": write["id"]})
            assert (read.status_code, read.json()["value"]) == (200, turn), read.text
            many = client.get("/v1/counters", params={"key": [other, key], "after": write["id"], "consistency": "primary"}).json()
            assert [one["value"] for one in many["results"]] == [turn, turn]
            sources.add(read.json()["source"])
            time.sleep(0.2 if turn % 2 else 0)
    write = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}).json()
    eventually(lambda: client.get(f"/v1/counters/{key}", params={"after": write["id"]}).json()["source"] == "replica")
    assert "cache" not in sources


def test_a_read_after_a_write_on_several_shards(client: httpx.Client, key: str) -> None:
    keys = [key_on(0, key), key_on(1, key)]
    write = client.post("/v1/increments", json={"increments": [{"key": one, "delta": 4} for one in keys]}).json()
    many = client.get("/v1/counters", params={"key": [*keys, f"{key}:never"], "after": write["id"]})
    assert [one["value"] for one in many.json()["results"]] == [4, 4, 0]
    elsewhere = client.post(f"/v1/counters/{keys[0]}/increments", json={"delta": 1}).json()
    assert client.get(f"/v1/counters/{keys[1]}", params={"after": elsewhere["id"]}).json()["value"] == 4


def test_a_read_after_a_write_that_is_not_applied_says_so(cluster: Cluster, client: httpx.Client, key: str) -> None:
    key = key_on(SHARD, key)
    client.put(f"/v1/counters/{key}", json={"value": 1}).raise_for_status()
    workers = [psutil.Process(one["pid"]) for one in cluster.processes("worker", SHARD)]
    for worker in workers:
        worker.suspend()
    try:
        write = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}).json()
        started = time.monotonic()
        read = client.get(f"/v1/counters/{key}", params={"after": write["id"], "wait": 0.5})
        assert 0.4 < time.monotonic() - started < 3
        assert (read.status_code, read.json()) == (202, {"id": write["id"], "status": "queued", "shards": [SHARD]})
        assert client.get(f"/v1/counters/{key}").json()["value"] == 1, "without `after` nobody waits"
    finally:
        for worker in workers:
            worker.resume()
    read = client.get(f"/v1/counters/{key}", params={"after": write["id"]})
    assert (read.status_code, read.json()["value"]) == (200, 2)


@pytest.mark.parametrize(("after", "status"), [("x", 400), ("", 400), (f"{'0' * 32}-0-0", 404), (f"{'0' * 32}-0-9", 404)])
def test_a_read_after_what_is_no_write(client: httpx.Client, key: str, after: str, status: int) -> None:
    started = time.monotonic()
    for path, params in ((f"/v1/counters/{key}", {}), ("/v1/counters", {"key": key})):
        answer = client.get(path, params={**params, "after": after})
        assert answer.status_code == status, answer.text
    assert time.monotonic() - started < 3
    assert client.get("/v1/counters", params={"prefix": key, "after": after}).status_code == 400


def test_nobody_without_the_password_steers(cluster: Cluster) -> None:
    """Patroni itself asks for it: the settings of this process are those of the cluster."""
    node = patroni.leader(SHARD)
    assert httpx.patch(f"{node.url}/config", json={"loop_wait": 2}).status_code == 401
