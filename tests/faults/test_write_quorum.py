"""The write quorum at run time, on real Patroni clusters: in force at once, kept, refused, lost and found again."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import httpx
import pytest

from counters.intake import journal
from counters.intake.journal import Journal
from replication import patroni
from replication.models import Intervention
from tests.support.cluster import Cluster, eventually, value_of
from tests.support.load import assert_exact, load
from tests.support.shards import SHARD, URL, key_on, one_of, primary_of, replica_away, shown


@pytest.mark.usefixtures("asynchronous")
def test_a_quorum_is_in_force_within_three_seconds_and_survives_a_failover(
    cluster: Cluster, client: httpx.Client, key: str
) -> None:
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
    # Patroni notes about a second later who may follow. Until then it starts a primary that dies again, in its place.
    eventually(lambda: "quorum_standby" in {member.role for member in patroni.members(SHARD)})
    old = primary_of(cluster, SHARD)
    os.kill(old["pid"], signal.SIGKILL)
    eventually(lambda: primary_of(cluster, SHARD)["name"] != old["name"], 60)
    eventually(lambda: client.get(f"{URL}/quorum").json()["in_force"], 60)
    assert shown(SHARD, "synchronous_standby_names").startswith("ANY 1 (")


@pytest.mark.usefixtures("asynchronous")
def test_what_confirming_means_is_a_setting(client: httpx.Client) -> None:
    answer = client.put(
        f"{URL}/quorum", json={"quorum": 1, "synchronous_commit": "remote_apply", "reason": "reads follow writes"}
    )
    assert (answer.status_code, answer.json()["synchronous_commit"]) == (200, "remote_apply"), answer.text
    assert shown(SHARD, "synchronous_commit") == "remote_apply"
    assert client.put(f"{URL}/quorum", json={"quorum": 1}).json()["synchronous_commit"] == "remote_apply", (
        "what is left out stays"
    )


@pytest.mark.usefixtures("asynchronous")
def test_one_call_for_all_shards(client: httpx.Client) -> None:
    answer = client.put("/v1/shards/quorum", json={"quorum": 1, "reason": "be sure"})
    assert answer.status_code == 200, answer.text
    assert [(one["shard"], one["quorum"], one["in_force"]) for one in answer.json()["results"]] == [
        (0, 1, True),
        (1, 1, True),
    ]
    assert all(shown(shard, "synchronous_standby_names") for shard in (0, 1))
    glance = client.get("/v1/shards").json()["results"]
    assert [(one["shard"], one["quorum"]["quorum"], one["following"]) for one in glance] == [(0, 1, 1), (1, 1, 1)]
    assert sum(one["slots"] for one in glance) == 1024
    assert glance[1]["primary"] == one_of(client, "primary")["node"]


@pytest.mark.usefixtures("found_whole")
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
def test_a_quorum_that_cannot_be_is_refused_with_the_reason(
    client: httpx.Client, body: dict[str, Any], status: int, word: str
) -> None:
    answer = client.put(f"{URL}/quorum", json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert word in answer.text
    assert client.get(f"{URL}/quorum").json()["quorum"] == 0


@pytest.mark.usefixtures("asynchronous")
def test_raised_and_lowered_under_load_nothing_is_lost(cluster: Cluster, client: httpx.Client, key: str) -> None:
    with load(cluster, key) as running:
        for number, strict in ((1, False), (0, False), (1, True), (0, True), (1, False), (0, False)):
            answer = client.put(f"{URL}/quorum", json={"quorum": number, "strict": strict})
            assert answer.status_code == 200, answer.text
            time.sleep(0.3)
    assert_exact(client, running)


@pytest.mark.usefixtures("asynchronous")
def test_a_strict_quorum_that_is_lost_makes_writes_wait(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """They are accepted, stay in the journal and are not applied; when the replica is back, all of them are, once."""
    key = key_on(SHARD, key)
    assert client.put(f"{URL}/quorum", json={"quorum": 1, "strict": True}).status_code == 200
    client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 20}).raise_for_status()
    with replica_away(cluster, client):
        accepted = [client.post(f"/v1/counters/{key}/increments", json={"delta": 100}) for _ in range(5)]
        assert {one.status_code for one in accepted} == {202}
        waited = client.post(f"/v1/counters/{key}/increments", json={"delta": 10}, params={"wait": 4})
        assert (waited.status_code, waited.json()["status"]) == (202, "queued")
        assert sum(Journal(lane).depth() for lane in journal.occupied(SHARD)) >= 2
        assert client.get(f"/v1/writes/{accepted[-1].json()['id']}").json()["status"] == "queued"
        now = client.get(f"{URL}/quorum").json()
        assert (now["in_force"], now["following"], now["quorum"]) == (False, 0, 1)
    eventually(lambda: value_of(client, key) == 511, 60)
    eventually(lambda: not journal.occupied(SHARD), 60)
    eventually(lambda: client.get(f"{URL}/quorum").json()["in_force"], 30)
    assert value_of(client, key) == 511


@pytest.mark.usefixtures("asynchronous")
def test_a_quorum_that_is_lost_and_not_strict_lets_writes_go_on(
    cluster: Cluster, client: httpx.Client, key: str
) -> None:
    """With what is left; but their journal entries stay until the replica has them (I3)."""
    key = key_on(SHARD, key)
    assert client.put(f"{URL}/quorum", json={"quorum": 1, "strict": False}).status_code == 200
    with replica_away(cluster, client):
        for turn in range(1, 4):
            answer = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 20})
            assert (answer.status_code, answer.json()["value"]) == (200, turn), answer.text
        assert journal.occupied(SHARD)
        assert client.get(f"{URL}/quorum").json()["confirming"] == 0
    eventually(lambda: not journal.occupied(SHARD), 60)
    eventually(lambda: client.get(f"{URL}/quorum").json()["confirming"] == 1, 30)
    assert value_of(client, key) == 3


@pytest.mark.usefixtures("asynchronous")
def test_a_lost_quorum_can_be_lowered(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """Of shard 0, where the control database is: what an operator does about it must not wait for the replica that is
    gone."""
    key = key_on(0, key)
    assert client.put("/v1/shards/0/quorum", json={"quorum": 1, "strict": True}).status_code == 200
    with replica_away(cluster, client, 0):
        waited = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 1})
        assert waited.status_code == 202
        answer = client.put("/v1/shards/0/quorum", json={"quorum": 0, "reason": "the replica is gone"})
        assert answer.status_code == 200, answer.text
        eventually(lambda: value_of(client, key) == 1, 30)
        assert Intervention.objects.filter(shard=0, reason="the replica is gone", outcome="in force").exists()
