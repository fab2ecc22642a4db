"""Lanes at work: side by side, held up, taken over; the tasks that apply them, and another number of them."""

from __future__ import annotations

import ast
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from uuid import uuid4

import httpx
import psutil
import psycopg
import pytest
from celery import current_app
from django.core.management import CommandError
from redis import Redis

from cluster.lanes import read as lanes_by_worker
from cluster.layout import Directory
from counters.apply.worker import Worker, is_neglected
from counters.batch import Increments
from counters.intake import dispatch, journal
from counters.intake.append import Flush, Moved, Payload, append
from counters.intake.journal import Journal
from counters.intake.lease import Lease
from counters.intake.set_aside import SetAsideBatches
from runtime import redis
from sharding import databases, lanes, topology
from sharding.lanes import Lane
from tests.support.cluster import Cluster, eventually, frozen, value_of
from tests.support.journal import append_bytes, lane_of, put_in_journal
from tests.support.load import assert_exact, load
from tests.support.shards import rows


def keys_by_lane(key: str, shard: int, each: int = 1) -> dict[Lane, list[str]]:
    """Keys of each lane of a shard."""
    found: dict[Lane, list[str]] = {lane: [] for lane in topology.current().lanes_of(shard)}
    for n in range(1000):
        one = f"{key}:{n}"
        if (lane := lane_of(one)) in found and len(found[lane]) < each:
            found[lane].append(one)
    return found


def increment(client: httpx.Client, key: str, **params: Any) -> httpx.Response:
    return client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params=params).raise_for_status()


@contextmanager
def held_up(lane: Lane) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else has the lane's lock."""
    with databases.connect(databases.primary(lane.shard), autocommit=True) as conn:
        conn.execute("SELECT pg_advisory_lock(%s, %s)", (lanes.LOCK_ID, lane.number))
        yield conn


def test_lanes_of_one_shard_commit_side_by_side(client: httpx.Client, key: str) -> None:
    """One lane's transaction is open, its rows written, and waits at its commit's door; the others of the shard commit
    meanwhile."""
    by_lane = keys_by_lane(key, 0)
    (slow, [mine]), *others = by_lane.items()
    increment(client, mine, wait=10)
    with databases.connect(databases.primary(0), autocommit=True) as conn:
        conn.execute("BEGIN")
        conn.execute(
            "SELECT FROM counter WHERE key = %s FOR UPDATE", (mine,)
        )  # its transaction has ledger and lock by then
        increment(client, mine)
        blocked = (
            "SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0 AND query ~ 'counter'"
        )
        eventually(lambda: rows(0, blocked)[0][0] == 1)
        for _, [other] in others:
            assert increment(client, other, wait=10).json()["value"] == 1
        assert rows(0, "SELECT value FROM counter WHERE key = %s", mine) == [(1,)]
        conn.execute("ROLLBACK")
    eventually(lambda: value_of(client, mine) == 2)
    assert slow not in dict(others)


@pytest.mark.parametrize("how", ["lock", "bad batch"])
def test_a_lane_that_is_held_up_delays_no_other(client: httpx.Client, key: str, how: str) -> None:
    (slow, [mine]), *others = keys_by_lane(key, 1).items()
    with held_up(slow):
        if how == "bad batch":
            bad = [uuid4() for _ in range(3)]
            for id in bad:
                append_bytes(slow, id, b"\xc1 not a batch")
        queued = increment(client, mine).json()["id"]
        slowest = 0.0
        for _, [other] in others:
            started = time.monotonic()
            increment(client, other, wait=10)
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 1
        assert client.get(f"/v1/writes/{queued}").json()["status"] == "queued"
    eventually(lambda: value_of(client, mine) == 1, 60)
    if how == "bad batch":
        eventually(lambda: SetAsideBatches(slow).all().keys() >= set(bad))
        for id in bad:
            SetAsideBatches(slow).discard(id)


def test_a_lane_that_is_held_up_takes_two_threads_of_a_worker_at_most(client: httpx.Client, key: str) -> None:
    """Its shifts lose the lease while they wait for the lock, and every message would block one thread more."""
    lane = lane_of(key)
    with closing(Worker("of a test", [lane.shard])) as worker:
        threads = [threading.Thread(target=worker.apply, args=(lane,)) for _ in range(6)]
        with held_up(lane):
            increment(client, key)
            for thread in threads:
                redis.journal().delete(Lease(lane).key)
                thread.start()
                time.sleep(0.3)
            assert sum(thread.is_alive() for thread in threads) <= 2
        for thread in threads:
            thread.join(20)
    eventually(lambda: value_of(client, key) == 1)


@contextmanager
def results() -> Iterator[list[dict[str, int]]]:
    """Results of the tasks that succeed while the block runs, as Celery tells them to whoever listens (Flower, for
    one). Tasks that run every two seconds tell nothing."""
    found: list[dict[str, int]] = []
    names: set[str] = set()
    heard = threading.Event()

    def take(event: dict[str, Any]) -> None:
        heard.set()
        if event["type"] == "task-received":
            names.add(event["name"])
        if event["type"] == "task-succeeded" and "'operations'" in str(event["result"]):
            found.append(ast.literal_eval(event["result"]))

    with current_app.connection_for_read() as connection:
        receiver = current_app.events.Receiver(connection, handlers={"*": take})
        thread = threading.Thread(target=lambda: receiver.capture(wakeup=False))
        thread.start()
        try:
            assert heard.wait(15), "a worker sends a heartbeat every two seconds"
            yield found
        finally:
            receiver.should_stop = True
            thread.join()
    assert names.isdisjoint({"counters.relay", "counters.heal"})


def test_what_tasks_report_adds_up_to_what_was_accepted(client: httpx.Client, key: str) -> None:
    """Single increments, waited ones, sets and bulk writes with keys of all lanes; each folded operation once."""
    accepted = 0
    with results() as heard:
        eventually(
            lambda: not any(Lease(lane).holder() for lane in topology.current().lanes)
        )  # no shift that has done something already
        heard.clear()
        for n in range(200):
            increment(client, f"{key}:{n % 50}")
        accepted += 200
        for n in range(10):
            increment(client, f"{key}:{n}", wait=10)
            client.put(f"/v1/counters/{key}:set:{n}", json={"value": n}).raise_for_status()
        accepted += 20
        for _ in range(5):
            body = {"increments": [{"key": f"{key}:{n % 300}", "delta": 1} for n in range(1000)]}
            accepted += client.post("/v1/increments", json=body).raise_for_status().json()["keys"]
        eventually(lambda: sum(one["operations"] for one in heard) >= accepted)
        time.sleep(1.5)  # a task more would say so within a shift
    assert sum(one["operations"] for one in heard) == accepted
    assert {(one["shard"], one["lane"], one["queue"]) for one in heard} == {
        tuple(one) for one in topology.current().lanes
    }
    assert all(
        set(one) == {"shard", "lane", "queue", "windows", "batches", "operations", "rows", "duplicates"}
        for one in heard
    )
    assert sum(one["rows"] for one in heard) <= accepted


def test_an_emptied_broker_costs_one_message(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """What it had is found by the workers' watch; what is sent afterwards arrives, although nobody has declared
    anything again."""
    for lane in topology.current().lanes * 2:  # each API process has sent messages, so it declares no queue any more
        dispatch.send(lane)
    for n in range(20):
        increment(client, f"{key}:{n}", wait=10)
        time.sleep(0.15)
    eventually(lambda: not any(Lease(lane).holder() for lane in topology.current().lanes))
    with Redis.from_url(cluster.env["TALLY_BROKER_URL"]) as broker:
        broker.flushdb()
    for _ in range(2):
        with results() as heard:
            eventually(lambda: not any(Lease(lane).holder() for lane in topology.current().lanes))
            heard.clear()
            assert increment(client, key, wait=20).status_code == 200
            eventually(lambda: sum(one["operations"] for one in heard) == 1, 5)


@pytest.mark.parametrize("holder", ["", "worker-9-9@gone#1"])
def test_a_lease_of_the_future_holds_up_no_lane(client: httpx.Client, key: str, holder: str) -> None:
    """The journal's clock was set back by an hour, when a task had been sent, or a shift had the lane."""
    lease = Lease(lane_of(key))
    eventually(lambda: lease.holder() is None)
    until = {"until": journal.now() + 3_600_000_000}
    redis.journal().hset(lease.key, mapping=until | ({"holder": holder} if holder else {}))
    try:
        assert lease.holder() is None
        assert increment(client, key, wait=10).json()["status"] == "applied"
    finally:
        redis.journal().delete(lease.key)


def test_a_lane_with_an_entry_of_the_future_may_be_neglected(cluster: Cluster) -> None:
    """Nobody knows how long it has waited, as the journal's clock was set back. No worker looks at this lane."""
    lane = Lane(99, 0)
    try:
        for seconds, neglected in ((0, False), (3600, True)):
            redis.journal().zadd(Journal(lane).positions_key, {uuid4().bytes: journal.now() + seconds * 1e6})
            assert is_neglected(lane) is neglected
            redis.journal().delete(Journal(lane).positions_key)
    finally:
        redis.journal().delete(Journal(lane).positions_key)


@pytest.fixture
def three_workers(cluster: Cluster) -> Iterator[int]:
    """Shard 1 with three workers."""
    cluster.manage("cluster", "scale", "worker-1=3", "--dir", str(cluster.dir))
    yield 1
    cluster.manage("cluster", "scale", "worker-1=1", "--dir", str(cluster.dir))


def holders(shard: int) -> dict[Lane, str]:
    """The worker that applies each lane now, by the name of its process."""
    found = {lane: Lease(lane).holder() for lane in topology.current().lanes_of(shard)}
    return {lane: holder.partition("@")[0] for lane, holder in found.items() if holder}


def test_a_killed_workers_lanes_are_taken_over_within_the_lease(
    cluster: Cluster, client: httpx.Client, three_workers: int, key: str, settings: Any
) -> None:
    """Under load, one of three: its lanes go on when the lease has run out, the others do not notice.

    A lane without a holder may have its message in the worker that is killed.
    """
    by_lane, stop = keys_by_lane(key, three_workers), threading.Event()
    slowest: dict[Lane, float] = dict.fromkeys(by_lane, 0.0)
    counted: dict[Lane, int] = dict.fromkeys(by_lane, 0)

    def write(lane: Lane) -> None:
        while not stop.is_set():
            started = time.monotonic()
            increment(client, by_lane[lane][0], wait=30)
            slowest[lane] = max(slowest[lane], time.monotonic() - started)
            counted[lane] += 1

    threads = [threading.Thread(target=write, args=(lane,)) for lane in by_lane]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: min(counted.values()) > 20)
        spread = eventually(
            lambda: len(found := holders(three_workers)) == len(by_lane) and len(set(found.values())) > 1 and found,
            60,
            0.02,
        )
        slowest.update(dict.fromkeys(by_lane, 0.0))
        victim = next(iter(spread.values()))
        pid = next(one["pid"] for one in cluster.processes("worker") if one["name"] == victim)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(pid), pause=0.01)  # until then it is sent messages of other lanes
        others = {lane for lane, worker in holders(three_workers).items() if worker != victim}
        before = dict(counted)
        eventually(lambda: all(counted[lane] > before[lane] + 20 for lane in by_lane), 30)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert max(slowest.values()) < settings.TALLY.lease_seconds + 3, slowest
    assert max((slowest[lane] for lane in others), default=0) < settings.TALLY.lease_seconds, slowest
    eventually(lambda: all(value_of(client, keys[0]) == counted[lane] for lane, keys in by_lane.items()))
    eventually(lambda: cluster.all_running("worker"))


def test_status_shows_who_applies_which_lane(cluster: Cluster, key: str) -> None:
    with load(cluster, key):
        eventually(lambda: lanes_by_worker(Directory(cluster.dir)).get("worker-0-1"))
        assert "0.3" in cluster.command("lanes", check=False)


@pytest.fixture
def lanes_restored(cluster: Cluster) -> Iterator[int]:
    """The number of lanes, which is the same afterwards."""
    count = topology.reload().lane_count
    yield count
    if topology.reload().lane_count != count:
        cluster.command("lanes", str(count))
        topology.reload()


def test_the_number_of_lanes_can_be_changed_under_load(
    cluster: Cluster, client: httpx.Client, key: str, lanes_restored: int
) -> None:
    """Writes get 503 meanwhile, and nothing else; order, write ids and idempotency hold across the change. The spill queues
    are drained, too, although the spill worker stands still."""
    first = increment(client, f"{key}:first").json()["id"]
    token = {"Idempotency-Key": uuid4().hex}
    once = (
        client.post(f"/v1/counters/{key}:once/increments", json={"delta": 5}, headers=token).raise_for_status().json()
    )
    spilled = [f"{key}:spilled:{n}" for n in range(20)]
    with load(cluster, key) as running, frozen(*cluster.processes("spill-worker")):
        running.goes_on()
        for count in (16, 1, lanes_restored):
            low = {"keys": spilled, "deltas": [1] * 20}
            client.post("/v1/increments", json=low, headers={"Priority": "u=7"}).raise_for_status()
            assert any(map(journal.spilled, (0, 1)))
            said = cluster.command("lanes", str(count))
            assert f"each shard has {count} lanes" in said
            assert all(rows(shard, "SELECT count(*) FROM apply_state") == [(count,)] for shard in (0, 1))
            running.goes_on()
            client.put(f"/v1/counters/{key}:set", json={"value": count}).raise_for_status()
            assert increment(client, f"{key}:set", wait=10).json()["value"] == count + 1
        assert not any(map(journal.spilled, (0, 1)))
        assert {value_of(client, one) for one in spilled} == {3}
    assert_exact(client, running)
    assert client.get(f"/v1/writes/{first}").json()["status"] == "applied"
    assert client.post(f"/v1/counters/{key}:once/increments", json={"delta": 5}, headers=token).json() == once
    assert value_of(client, f"{key}:once") == 5


def test_lanes_that_cannot_be_drained_are_not_changed(
    cluster: Cluster, client: httpx.Client, key: str, lanes_restored: int
) -> None:
    lane = lane_of(key)
    with held_up(lane):
        increment(client, key)
        with pytest.raises(
            CommandError, match=rf"lane {lane}: not applied and replicated within 2 s: nothing was changed"
        ):
            cluster.command("lanes", "16", "--seconds", "2")
        assert topology.reload().lane_count == lanes_restored
        assert increment(client, key).status_code == 202, "the journals are open again"
    eventually(lambda: value_of(client, key) == 2, 60)


def test_while_the_journals_are_closed_writes_are_told_to_come_back(client: httpx.Client, key: str) -> None:
    version = topology.current().version
    journal.close(30)
    try:
        answer = client.post(f"/v1/counters/{key}/increments", json={"delta": 1})
        assert (answer.status_code, answer.headers["Retry-After"].isdigit()) == (503, True)
    finally:
        journal.reopen(version)
    assert increment(client, key).status_code == 202


def test_what_an_older_topology_routed_is_refused(client: httpx.Client, key: str) -> None:
    """An API process that does not know of a change reads the topology again; its clients repeat."""
    version = topology.current().version
    with pytest.raises(Moved):
        append(Flush(uuid4(), {lane_of(key): Payload(b"")}, 1, {}, version - 1))
    assert Journal(lane_of(key)).position(uuid4()) is None


def test_a_batch_of_another_number_of_lanes_is_forwarded_within_its_shard(client: httpx.Client, key: str) -> None:
    """I6 between lanes of one shard: as after a change that an API process did not hear of."""
    by_lane = keys_by_lane(key, 0)
    keys = [keys[0] for keys in by_lane.values()]
    wrong = next(iter(by_lane))
    id, _ = put_in_journal(wrong, Increments(keys, [3] * len(keys)))
    dispatch.send(wrong)
    eventually(lambda: [value_of(client, one) for one in keys] == [3] * len(keys))
    sent = rows(
        0, "SELECT shard, to_lane FROM forwarded WHERE id = %s AND lane = %s ORDER BY to_lane", id, wrong.number
    )
    assert sent == [(0, lane.number) for lane in by_lane if lane != wrong]
