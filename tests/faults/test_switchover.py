"""Another primary while writes and reads go on; servers that rejoin or are copied anew; what staff may and may not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from replication.models import Intervention
from runtime import redis
from tests.support.cluster import Cluster, eventually
from tests.support.load import assert_exact, load
from tests.support.shards import (
    SHARD,
    URL,
    directly,
    key_on,
    one_of,
    system_start,
)


class Reads:
    """Reads without the cache, of a replica and of the primary, until told to stop; `failed` are the answers that were
    not 200."""

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
                    redis.cache().delete(f"c:{self.key}")
                answer = client.get(f"/v1/counters/{self.key}", params={"consistency": consistency})
                self.done += 1
                if answer.status_code != 200 or answer.json()["value"] != 7:
                    self.failed.append(f"{consistency}: {answer.status_code} {answer.text}")
                time.sleep(0.02)


@pytest.mark.usefixtures("whole")
def test_a_switchover_refuses_no_write_and_fails_no_read(cluster: Cluster, client: httpx.Client, key: str) -> None:
    steady, old = key_on(SHARD, f"{key}:steady"), one_of(client, "primary")["node"]
    client.put(f"/v1/counters/{steady}", json={"value": 7}).raise_for_status()
    candidate = one_of(client, "replica")["node"]
    with load(cluster, key) as running, Reads(cluster, steady) as reads:
        time.sleep(0.5)
        answer = client.post(f"{URL}/switchover", json={"candidate": candidate, "reason": f"a new disk: {key}"})
        assert (answer.status_code, answer.json()) == (200, {"shard": SHARD, "primary": candidate}), answer.text
        put = client.put(f"/v1/counters/{steady}", json={"value": 7})
        assert put.status_code == 200, put.text
        enough = reads.done + 50
        eventually(lambda: reads.done > enough)
    assert reads.failed == []
    assert running.refused == 0
    assert_exact(client, running)
    eventually(
        lambda: (one_of(client, "replica")["node"], one_of(client, "replica")["state"]) == (old, "streaming"), 60
    )
    kept = Intervention.objects.get(shard=SHARD, action="switchover", reason=f"a new disk: {key}")
    assert kept.by.startswith("API key local-cluster (")
    assert kept.node == candidate
    assert candidate in kept.outcome
    answer = client.post(f"{URL}/switchover", json={"reason": "and back"})
    assert (answer.status_code, answer.json()["primary"]) == (200, old), answer.text


@pytest.mark.usefixtures("whole")
def test_a_failover_makes_a_replica_the_primary(cluster: Cluster, client: httpx.Client, key: str) -> None:
    candidate = one_of(client, "replica")["node"]
    answer = client.post(f"{URL}/failover", json={"candidate": candidate, "reason": "a drill"})
    assert (answer.status_code, answer.json()["primary"]) == (200, candidate), answer.text
    client.post(
        f"/v1/counters/{key_on(SHARD, key)}/increments", json={"delta": 1}, params={"wait": 20}
    ).raise_for_status()


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
def test_what_cannot_be_done_is_refused(
    client: httpx.Client, path: str, body: dict[str, Any], status: int, word: str
) -> None:
    primary = one_of(client, "primary")["node"]
    asked = {name: primary if value == "PRIMARY" else value for name, value in body.items()}
    answer = client.post(f"{URL}/{path.replace('PRIMARY', primary)}", json=asked)
    assert (answer.status_code, word in answer.text) == (status, True), answer.text
    assert one_of(client, "primary")["node"] == primary


@pytest.fixture(scope="module")
def writer(cluster: Cluster) -> Iterator[httpx.Client]:
    """A client whose key may write, and nothing else."""
    with cluster.client(cluster.make_key("write")) as writer:
        yield writer


@pytest.mark.parametrize("path", ["/v1/shards", f"{URL}/replicas", f"{URL}/quorum", "/v1/shards/quorum"])
def test_only_staff_may_look_and_steer(cluster: Cluster, writer: httpx.Client, path: str) -> None:
    with cluster.client("") as anonymous:
        assert anonymous.get(path).status_code == 401
        assert anonymous.post(f"{URL}/switchover", json={"reason": "x"}).status_code == 401
    assert writer.get(path).status_code == 403
    assert writer.put(f"{URL}/quorum", json={"quorum": 0}).status_code == 403
    assert writer.post(f"{URL}/switchover", json={"reason": "x"}).status_code == 403


@pytest.mark.parametrize("shard", ["2", "-1", "x", "00000"])
def test_a_shard_that_is_none_is_unknown(client: httpx.Client, shard: str) -> None:
    assert client.get(f"/v1/shards/{shard}/replicas").status_code == 404


@pytest.mark.usefixtures("whole")
def test_every_server_is_told(cluster: Cluster, client: httpx.Client, key: str) -> None:
    client.post(
        f"/v1/counters/{key_on(SHARD, key)}/increments", json={"delta": 1}, params={"wait": 20}
    ).raise_for_status()
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
    shown = json.loads(cluster.command("replicas", "--json"))
    assert [{one["node"] for one in shard["replicas"]} for shard in shown][SHARD] == {primary["node"], replica["node"]}
    table = cluster.command("replicas", "--shard", str(SHARD))
    assert primary["node"] in table
    assert "streaming" in table
    assert "shard 0" not in table


@pytest.mark.usefixtures("whole")
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


@pytest.mark.usefixtures("whole")
def test_a_replica_rejoins(cluster: Cluster, client: httpx.Client) -> None:
    replica = one_of(client, "replica")
    before = system_start(replica)
    answer = client.post(f"{URL}/replicas/{replica['node']}/rejoin", json={"reason": "it does not follow"})
    assert answer.status_code == 200, answer.text
    eventually(lambda: system_start(replica) > before, 30)
    eventually(lambda: one_of(client, "replica")["state"] == "streaming", 30)
