"""One primary and several followers, in a cluster with test_journal_copies: shared reads, quorums above one, delays from the
command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from benchmarks.chaos.subject import Subject, journal_of
from benchmarks.quorum.deployment import of_cluster
from benchmarks.quorum.report import Sweep
from benchmarks.quorum.steer import left_as_found
from tests.faults.other_clusters.conftest import DELAYS, FOLLOWERS, SETTINGS
from tests.support.cluster import Cluster, eventually, frozen, value_of
from tests.support.commands import ROOT, clean, up
from tests.support.load import load
from tests.support.shards import patroni_of

LONG_DELAYS = (500, 700)  # ms: more than a write among many takes on a busy machine
WRITES = 20  # at once: an API process has room for 24 that wait for longer than a second


@pytest.fixture
def followers(followed: Cluster) -> Iterator[httpx.Client]:
    """A client; the quorum is 0 before and after."""
    with followed.client() as client:
        yield client
        calm = {"quorum": 0, "strict": False, "synchronous_commit": "on"}
        eventually(lambda: client.put("/v1/shards/0/quorum", json=calm).status_code == 200, 60)


def replicas(client: httpx.Client) -> list[dict[str, Any]]:
    found = client.get("/v1/shards/0/replicas").raise_for_status().json()["results"]
    return [one for one in found if one["role"] == "replica"]


def depth(followed: Cluster) -> int:
    redis = journal_of(followed.env)
    return sum(int(redis.zcard(f"journal:0.{lane}:positions")) for lane in range(16))


def test_each_follower_has_a_delay_out_of_the_range(followers: httpx.Client) -> None:
    eventually(
        lambda: (
            len(replicas(followers)) == FOLLOWERS and all(one["state"] == "streaming" for one in replicas(followers))
        )
    )
    assert all(DELAYS[0] <= one["apply_delay_ms"] <= DELAYS[1] for one in replicas(followers))


def test_reads_are_shared_by_the_followers(followed: Cluster, followers: httpx.Client, key: str) -> None:
    eventually(lambda: followers.get(f"/v1/counters/{key}:{time.monotonic()}").json()["source"] == "replica")
    for n in range(80):
        assert followers.get(f"/v1/counters/{key}:{n}").json()["source"] == "replica"
    with httpx.Client(base_url=followed.url, timeout=30) as client:  # more connections than one
        answers = [client.get("/v1/counters", params={"key": [f"{key}:{n}:{m}" for m in range(50)]}) for n in range(40)]
    assert {one["source"] for answer in answers for one in answer.json()["results"]} == {"replica"}

    def busy() -> bool:
        return all(connections(followed, one["port"]) > 0 for one in replicas(followers))

    def read_more() -> bool:
        """Connections are chosen at random, and kept: those that are there are ended, so that new ones are made."""
        for one in replicas(followers):
            end_connections(followed, one["port"])
        for n in range(10):
            followers.get(f"/v1/counters/{key}:more:{time.monotonic()}:{n}").raise_for_status()
        seen.update(one["port"] for one in replicas(followers) if connections(followed, one["port"]))
        return len(seen) == FOLLOWERS

    seen: set[int] = set()
    assert busy() or eventually(read_more, 60)


# Which server, by its port, answers each of many reads of a process that has this strategy.
READ = """
import json
import django; django.setup()
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from django.conf import settings
from counters.reading import reads
from runtime.resources import Resources

def read(_):
    return reads.ask(0, lambda conn: (conn.execute("SELECT pg_sleep(0.02)"), conn.info.port)[1])[0]

found = {}
for strategy in ("random", "round_robin", "least_lag"):
    settings.TALLY = settings.TALLY.model_copy(update={"replica_strategy": strategy})
    with Resources(), ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(400)))
        found[strategy] = Counter(pool.map(read, range(400)))
print(json.dumps(found))
"""


def test_the_strategy_chooses_the_replica(followed: Cluster, followers: httpx.Client, key: str) -> None:
    """One follower applies at once, the other late; neither lags so much that it is left out."""
    slow, quick = replicas(followers)
    delays = {one["node"]: one["apply_delay_ms"] for one in (slow, quick)}
    try:
        for one, delay in ((slow, "900ms"), (quick, "0ms")):
            address = f"/v1/shards/0/replicas/{one['node']}/delay"
            answer = followers.put(address, json={"delay": delay, "reason": "a test"})
            assert answer.status_code == 200, answer.text
        with load(followed, key, clients=2) as running:
            running.goes_on(5)
            environment = {**clean(), **followed.env, "DJANGO_SETTINGS_MODULE": "counter_project.settings"}
            done = subprocess.run(
                [sys.executable, "-W", "ignore", "-c", READ],
                cwd=ROOT,
                env=environment,
                check=False,
                capture_output=True,
                text=True,
            )
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, dict[str, int]] = json.loads(done.stdout)
        of_quick = {name: of.get(str(quick["port"]), 0) / sum(of.values()) for name, of in found.items()}
        assert of_quick["least_lag"] > 0.7, found
        assert 0.25 < of_quick["round_robin"] < 0.75, found
        assert set(found["random"]) <= {str(slow["port"]), str(quick["port"])}, found
    finally:
        for node, delay in delays.items():
            followers.put(f"/v1/shards/0/replicas/{node}/delay", json={"delay": f"{delay}ms", "reason": "it ends"})


def asked(followed: Cluster, port: int, query: str) -> Any:
    """As the superuser: the connections of API processes are of another role than the owner of the tables."""
    login = {"user": "postgres", "password": json.loads((followed.dir / "secrets.json").read_text())["postgres"]}
    address = make_conninfo(host="127.0.0.1", port=port, dbname="tally", application_name="test", **login)
    with psycopg.connect(address, autocommit=True) as conn:
        return conn.execute(query).fetchall()[0][0]


def connections(followed: Cluster, port: int) -> int:
    found: int = asked(
        followed,
        port,
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'api-%' AND datname = 'tally'",
    )
    return found


def end_connections(followed: Cluster, port: int) -> None:
    asked(
        followed,
        port,
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'api-%'",
    )


def test_a_commit_waits_for_as_many_as_asked(followers: httpx.Client, key: str) -> None:
    """With `remote_apply` the delays can be seen: a quorum of all takes as long as the slowest, 0 waits for nobody."""
    slowest = max(one["apply_delay_ms"] for one in replicas(followers)) / 1000
    fastest = min(one["apply_delay_ms"] for one in replicas(followers)) / 1000
    took = {}
    for number in (0, 1, FOLLOWERS):
        body = {"quorum": number, "synchronous_commit": "remote_apply"}
        answer = followers.put("/v1/shards/0/quorum", json=body)
        assert (answer.status_code, answer.json()["confirming"]) == (200, number), answer.text
        took[number] = min(seconds_to_apply(followers, key) for _ in range(5))
    assert took[0] < fastest <= took[1], took
    assert took[FOLLOWERS] >= slowest, took


def seconds_to_apply(client: httpx.Client, key: str) -> float:
    started = time.monotonic()
    answer = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 20})
    assert answer.status_code == 200, answer.text
    return time.monotonic() - started


def test_the_quorum_report_is_exact_and_finds_what_is_not(followed: Cluster, followers: httpx.Client) -> None:
    """On a cluster that runs already."""
    running = of_cluster(Subject(followed.dir))
    sweep = Sweep(running, writes=WRITES, rounds=1, spread=0.5, seed=1, delays=LONG_DELAYS, tell=lambda _: None)
    before = {one["node"]: one["apply_delay_ms"] for one in replicas(followers)}
    with left_as_found(running, with_delays=True):
        found = sweep.measure([0, FOLLOWERS])
        during = {one["apply_delay_ms"] for one in replicas(followers)}
    assert found.exact, found.steps
    assert during == set(found.delays_ms)
    eventually(lambda: {one["node"]: one["apply_delay_ms"] for one in replicas(followers)} == before)
    assert followers.get("/v1/shards/0/quorum").json()["quorum"] == 0
    assert [step.followers_compared for step in found.steps] == [FOLLOWERS, FOLLOWERS]
    waited = [min(one.quantiles_ms[0] for one in step.latencies) for step in found.steps]
    assert waited[0] < found.delays_ms[0] <= found.delays_ms[-1] <= waited[1]
    unknown = next(iter(sweep.expected))
    answer = followers.post(f"/v1/counters/{unknown}/increments", json={"delta": 1}, params={"wait": 20})
    assert answer.status_code == 200, "a count that the report knows nothing of"
    found = sweep.measure([0])
    assert (found.exact, found.steps[0].mismatched_keys) == (False, 1)
    assert list(found.steps[0].mismatched.values()) == [[unknown]]


def test_more_than_there_are_is_refused(followers: httpx.Client) -> None:
    answer = followers.put("/v1/shards/0/quorum", json={"quorum": FOLLOWERS + 1})
    assert answer.status_code == 409
    assert f"{FOLLOWERS} replicas" in answer.json()["detail"]


@pytest.mark.parametrize("strict", [False, True])
def test_one_of_two_is_gone_and_both_are_asked_for(
    followed: Cluster, followers: httpx.Client, key: str, strict: bool
) -> None:
    """Writes go on with one, or wait for both; either way the journal keeps them until both have them (I3)."""
    answer = followers.put("/v1/shards/0/quorum", json={"quorum": FOLLOWERS, "strict": strict})
    assert answer.status_code == 200, answer.text
    gone = replicas(followers)[0]
    node = next(one for one in followed.processes("postgres") if one["port"] == gone["port"])
    with frozen(patroni_of(followed, 0, node["name"])):
        os.kill(node["pid"], signal.SIGKILL)
        eventually(lambda: followers.get("/v1/shards/0/quorum").json()["following"] == 1)
        answer = followers.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 8})
        assert answer.json()["status"] == ("queued" if strict else "applied"), answer.text
        assert depth(followed) >= 1
    eventually(lambda: followers.get("/v1/shards/0/quorum").json()["in_force"], 120)
    eventually(lambda: depth(followed) == 0, 60)
    assert value_of(followers, key) == 1


def shared_settings(followed: Cluster, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The shard's configuration in etcd, after changes."""
    address = f"http://127.0.0.1:{followed.processes('patroni')[0]['port']}/config"
    login = ("tally", followed.env["TALLY_PATRONI_PASSWORD"])
    if changes:
        httpx.patch(address, json=changes, auth=login).raise_for_status()
    found: dict[str, Any] = httpx.get(address, auth=login).raise_for_status().json()
    return found


def test_the_choice_survives_a_restart_of_everything(followed: Cluster, followers: httpx.Client) -> None:
    """Settings that an older version did not have are added."""
    body = {"quorum": 1, "strict": True, "synchronous_commit": "remote_apply"}
    assert followers.put("/v1/shards/0/quorum", json=body).status_code == 200
    delays = {one["node"]: one["apply_delay_ms"] for one in replicas(followers)}
    missing = {"remove_data_directory_on_rewind_failure": None, "parameters": {"wal_keep_size": None}}
    older = shared_settings(followed, {"postgresql": missing})
    assert "wal_keep_size" not in older["postgresql"]["parameters"]
    followed.manage("cluster", "down", "--dir", str(followed.dir))
    up(followed.dir, **SETTINGS)
    now = eventually(lambda: (one := followers.get("/v1/shards/0/quorum").json())["in_force"] and one, 60)
    assert {name: now[name] for name in body} == body
    assert all(delays.get(one["node"], one["apply_delay_ms"]) == one["apply_delay_ms"] for one in replicas(followers))
    added = eventually(lambda: (one := shared_settings(followed)) != older and one)
    assert added["postgresql"]["remove_data_directory_on_rewind_failure"] is True
    assert added["postgresql"]["parameters"]["wal_keep_size"] == "1GB"
