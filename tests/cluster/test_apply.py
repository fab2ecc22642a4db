"""The way down, against the real journal, workers and shards: doubles, disorder, bad batches, forwarding, lost
commits."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from celery import current_app
from prometheus_client import REGISTRY
from uuid_utils.compat import uuid7

from counters import batch
from counters.apply import dead_letters, partitions, transaction
from counters.apply.completion import Completion
from counters.batch import Increments, Step
from counters.intake import dispatch, journal
from counters.intake.journal import Entry, Journal
from counters.intake.lease import Lease
from counters.intake.set_aside import SetAsideBatches
from counters.write_id import WriteId
from replication import flush
from runtime import redis
from sharding import databases, topology
from sharding.lanes import Lane
from sharding.slots import SLOTS
from tests.support.cluster import Cluster, eventually, in_process, value_of
from tests.support.journal import append_bytes, is_drained, lane_of, put_in_journal
from tests.support.shards import primary_of, rows


def test_doubled_and_disordered_messages_change_nothing(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """I4: messages for every lane of the shard, fifty each, in any order, before, while and after there is something to
    apply."""
    lane = lane_of(key)
    messages = [one for one in topology.current().lanes_of(lane.shard) for _ in range(50)]
    random.shuffle(messages)
    for n, one in enumerate(messages):
        if n < 10:
            put_in_journal(lane, Increments([key], [n + 1]))
        dispatch.send(one)
    eventually(lambda: value_of(client, key) == 55)
    eventually(lambda: is_drained(lane.shard))
    for one in messages:
        dispatch.send(one)
    time.sleep(1)
    assert value_of(client, key) == 55


def test_the_same_batch_journaled_twice_is_counted_once(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """I2: an append that was repeated after its first try had been applied and completed."""
    lane = lane_of(key)
    id, position = put_in_journal(lane, Increments([key], [7]))
    dispatch.send(lane)
    eventually(lambda: value_of(client, key) == 7 and Journal(lane).position(id) is None)
    _, again = put_in_journal(lane, Increments([key], [7]), id=id)
    assert again > position
    dispatch.send(lane)
    eventually(lambda: Journal(lane).position(id) is None)
    assert value_of(client, key) == 7


def test_order_is_the_journals(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """A set voids what stands before it and keeps what stands behind it."""
    operations: list[batch.Operation] = [
        Increments([key], [100]),
        Step(key, "set", 5),
        Increments([key], [1]),
        Increments([key], [1]),
    ]
    for operation in operations:
        put_in_journal(lane_of(key), operation)
    dispatch.send(lane_of(key))
    eventually(lambda: value_of(client, key) == 7)


def test_a_lost_message_is_relayed(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """No task was ever sent; when the lease for it has run out, the worker's watch finds the batch, or the relay."""
    put_in_journal(lane_of(key), Increments([key], [3]))
    eventually(lambda: value_of(client, key) == 3, 30)


def test_a_bad_batch_is_set_aside_and_the_lane_goes_on(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """Bytes that are no batch, a batch of an unknown format, and one that PostgreSQL cannot take."""
    lane = lane_of(key)
    refused_key = next(one for n in range(999) if lane_of(one := f"{key}:{n}\0") == lane)
    refused = batch.encode_segment(Increments([refused_key], [1]))
    bad = {uuid7(): b"\xc1 not a batch", uuid7(): batch._encoder.encode([99, b"", [], []])}
    refused_id = uuid7()
    bad[refused_id] = batch.encode(refused_id, [(0, refused)], [], None)
    for id, data in bad.items():
        append_bytes(lane, id, data)
        dispatch.send(lane)
    try:
        client.post(f"/v1/counters/{key}/increments", json={"delta": 2}, params={"wait": 30}).raise_for_status()
        assert value_of(client, key) == 2
        kept = SetAsideBatches(lane).all()
        assert bad.keys() <= kept.keys()
        assert "format" in kept[list(bad)[1]].reason
        said, status = in_process("journal", "--json")
        assert status == 1
        shown = json.loads(said)[lane.shard]["set_aside"]
        assert {(one["lane"], one["id"]) for one in shown} >= {(str(lane), id.hex) for id in bad}
        logs = "".join(log.read_text() for log in (cluster.dir / "logs").glob("worker-*.log"))
        lines = [json.loads(line) for line in logs.splitlines() if '"batch_set_aside"' in line]
        assert {line["batch"] for line in lines} >= {id.hex for id in bad}
    finally:
        told = [cluster.command("journal", "--discard", id.hex) for id in bad]
    assert [one.splitlines()[-1] for one in told] == [f"forgotten: {id.hex}" for id in bad]
    assert not bad.keys() & SetAsideBatches(lane).all().keys()


def test_a_batch_that_was_set_aside_can_be_retried(cluster: Cluster, client: httpx.Client, key: str) -> None:
    lane = lane_of(key)
    workers = [psutil.Process(one["pid"]) for one in cluster.processes("worker", lane.shard)]
    for worker in workers:
        worker.suspend()
    try:
        id, position = put_in_journal(lane, Increments([key], [9]))
        SetAsideBatches(lane).add(Entry(id, position), "by a test")
    finally:
        for worker in workers:
            worker.resume()
    answer = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 30}).json()
    assert answer["value"] == 1
    assert "back in the journal" in cluster.command("journal", "--retry", id.hex)
    eventually(lambda: value_of(client, key) == 10)


def test_garbage_in_the_queue_does_no_harm(cluster: Cluster, client: httpx.Client, key: str) -> None:
    shard = topology.current().shard_of(key)
    before = dead_letters.letters()
    garbage: list[tuple[Any, ...]] = [
        (),
        (99, 0),
        (1 - shard, 0),
        ("a", "b"),
        (shard,),
        (shard, -1),
        (shard, 16),
        (shard, 2**80),
        (shard, "1"),
        (shard, 1.5),
        (shard, 0, uuid4().hex),
    ]
    for arguments in garbage:
        current_app.send_task(dispatch.TASK, arguments, queue=dispatch.queue_of(shard))
    current_app.send_task("counters.no_such_task", (), queue=dispatch.queue_of(shard))
    answer = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 30})
    assert answer.json()["value"] == 1
    reasons = {"failed", "unknown task"}

    def new() -> dict[str, dead_letters.DeadLetter]:
        return {id: letter for id, letter in dead_letters.letters().items() if id not in before}

    eventually(
        lambda: (
            {letter.reason.partition(":")[0] for letter in new().values()} == reasons and len(new()) == len(garbage) + 1
        )
    )
    kept = new()
    unknown = next(id for id, letter in kept.items() if letter.task == "counters.no_such_task")
    assert dead_letters.retry(unknown)
    again = eventually(lambda: [id for id in dead_letters.letters() if id not in before and id not in kept])
    for id in [*kept, *again]:
        dead_letters.discard(id)


def test_misrouted_batch_is_forwarded(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """I6: operations on slots of other lanes, here and on another shard, reach them, once, and the write's status
    follows them."""
    current = topology.current()
    keys = [f"{key}:{n}" for n in range(20)]
    wrong = Lane(0, 0)
    assert {current.shard_of(one) for one in keys} == {0, 1}
    assert len({current.lane_of(one) for one in keys if current.shard_of(one) == 0}) > 1
    id, _ = put_in_journal(
        wrong, Increments(keys, [4] * len(keys)), Step(next(k for k in keys if current.shard_of(k) == 1), "set", 50)
    )
    for _ in range(3):
        dispatch.send(wrong)
    expected = dict.fromkeys(keys, 4) | {next(k for k in keys if current.shard_of(k) == 1): 50}
    eventually(lambda: {one: value_of(client, one) for one in keys} == expected)
    status = client.get(f"/v1/writes/{WriteId(id, 1, (wrong,))}").json()
    assert (status["status"], status["value"]) == ("applied", 50)
    assert rows(
        1, "SELECT count(*) FROM counter WHERE key = ANY(%s)", [k for k in keys if current.shard_of(k) == 0]
    ) == [(0,)]


def test_an_emptied_journal_starts_behind_every_version(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """Without its clock the journal takes nothing until it is past all that the shards have."""
    before = client.put(f"/v1/counters/{key}", json={"value": 1}).json()["version"]
    eventually(lambda: is_drained(0) and is_drained(1))
    redis.journal().delete(journal.CLOCK)
    after = client.put(f"/v1/counters/{key}", json={"value": 2}).json()["version"]
    assert after > before
    assert int(redis.journal().get(journal.CLOCK)) >= after


@pytest.fixture
def lagging_replica(cluster: Cluster) -> Iterator[psutil.Process]:
    """The WAL receiver of shard 1's replica, stopped."""
    cluster.wait_until_whole()
    primary = primary_of(cluster, 1)

    def find() -> psutil.Process | None:
        replica = next(one for one in cluster.processes("postgres", 1) if one["name"] != primary["name"])
        children = psutil.Process(replica["pid"]).children()
        return next((child for child in children if "walreceiver" in " ".join(child.cmdline())), None)

    receiver: psutil.Process = eventually(find)
    receiver.suspend()
    yield receiver
    if receiver.is_running():
        receiver.resume()
    cluster.wait_until_whole()


def test_commits_that_the_replica_never_got_are_applied_again(
    cluster: Cluster, client: httpx.Client, key: str, lagging_replica: psutil.Process
) -> None:
    """I3: the primary dies with commits of its own; the journal has them still, and gives the new primary exactly
    those. The primary's clock was set forward by an hour meanwhile, which makes no commit older."""
    keys = [one for n in range(40) if topology.current().shard_of(one := f"{key}:{n}") == 1][:5]
    answers = {}
    batches: set[UUID] = set()
    for again in (False, True):
        if again:  # by shifts that find the first commits in the ledger
            with databases.connect(databases.primary(1), autocommit=True) as conn:
                conn.execute(
                    "UPDATE ledger SET applied_at = applied_at - interval '1 hour' WHERE id = ANY(%s)", [[*batches]]
                )
            eventually(lambda: not any(Lease(lane).holder() for lane in topology.current().lanes_of(1)))
        for one in keys:
            answer = client.post(f"/v1/counters/{one}/increments", json={"delta": 3}, params={"wait": 30})
            assert answer.status_code == 200, answer.text
            answers[one] = answer.json()
            batches.add(WriteId.parse(answers[one]["id"]).batch)
    assert sum(Journal(lane).depth() for lane in journal.occupied(1)) >= len(batches)
    os.kill(primary_of(cluster, 1)["pid"], signal.SIGKILL)
    lagging_replica.kill()  # what it had in its buffer goes with it
    eventually(lambda: {one: value_of(client, one) for one in keys} == dict.fromkeys(keys, 6), 60)
    for one in keys:  # versions, too, are what was answered
        assert (
            client.get(f"/v1/counters/{one}", params={"consistency": "primary"}).json()["version"]
            == answers[one]["version"]
        )
    eventually(lambda: is_drained(1), 60)


@pytest.mark.limit("TALLY_JOURNAL_HOLD_BYTES", "TALLY_JOURNAL_HOLD_SECONDS")
def test_a_shard_without_its_replica_is_degraded_beyond_the_bound(
    cluster: Cluster, client: httpx.Client, key: str, lagging_replica: psutil.Process, settings: Any
) -> None:
    """Entries wait for the replica; what is over the bound goes, and a gauge says so until the replica is back."""

    def gauge() -> float:
        return REGISTRY.get_sample_value("tally_shard_degraded", {"shard": "1"}) or 0.0

    def note() -> UUID:
        id, _ = put_in_journal(lane, Increments([mine], [1]))
        conn.execute("SELECT pg_logical_emit_message(true, 'test', 'moves the WAL position')")
        completion.add([batch.decode(Journal(lane).payloads([id])[0] or b"")], 100, flush.written(conn))
        return id

    mine = next(one for n in range(99) if lane_of(one := f"{key}:{n}").shard == 1)
    lane = lane_of(mine)
    hold = 200 * topology.lane_count(1)
    completion = Completion(lane)
    with databases.connect(databases.primary(1), autocommit=True) as conn:
        kept = [note() for _ in range(3)]
        completion.complete(conn)
        assert [Journal(lane).position(id) is not None for id in kept] == [True] * 3
        assert gauge() == 0
        settings.TALLY = settings.TALLY.model_copy(update={"journal_hold_bytes": hold})
        completion.complete(conn)
        assert [Journal(lane).position(id) is not None for id in kept] == [False, True, True]
        assert gauge() == 1
        settings.TALLY = settings.TALLY.model_copy(update={"journal_hold_seconds": 1e-6})
        completion.complete(conn)
        assert [Journal(lane).position(id) is not None for id in kept] == [False, False, False]
        assert gauge() == 1
        settings.TALLY = settings.TALLY.model_copy(update={"journal_hold_seconds": 600.0})
        lagging_replica.resume()

        def replicated() -> bool:
            note()
            completion.complete(conn)
            return gauge() == 0 and not completion.pending

        eventually(replicated)
    put_in_journal(lane, Increments([mine], [1]))
    dispatch.send(lane)


def test_partitions_are_dropped_with_their_time_and_not_before_the_journal(cluster: Cluster) -> None:
    long_ago = datetime.now(UTC) - timedelta(days=30)
    partitions.create_ahead(1, now=long_ago)
    name = f"ledger_{long_ago:%Y%m%d}"
    tables = "SELECT 1 FROM pg_class WHERE relname = %s"
    assert rows(1, tables, name)
    assert name not in partitions.drop_old(1, retention_days=7, oldest_entry=long_ago)
    assert name in partitions.drop_old(1, retention_days=7, oldest_entry=None)
    assert not rows(1, tables, name)
    assert rows(1, tables, f"ledger_{datetime.now(UTC):%Y%m%d}")


def test_ledger_rows_are_in_the_partition_of_their_day(cluster: Cluster, client: httpx.Client, key: str) -> None:
    write = client.post(f"/v1/counters/{key}/increments", json={"delta": 1}, params={"wait": 30}).json()["id"]
    id = WriteId.parse(write)
    found = rows(id.shards[0], "SELECT tableoid::regclass::text FROM ledger WHERE id = %s", id.batch)
    assert found == [(f"ledger_{datetime.now(UTC):%Y%m%d}",)]


def test_every_slot_has_one_owner(cluster: Cluster) -> None:
    owners = topology.current().owners
    assert len(owners) == SLOTS
    assert {owners.count(shard) for shard in (0, 1)} == {512}
    for shard in (0, 1):
        assert rows(shard, "SELECT shard, owners FROM shard_state") == [(shard, list(owners))]


def test_a_window_over_most_counters_is_written_as_any_other(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """Both ways to add: one row at a time, and with the whole table (`add_dense.sql`); new rows, known rows, and one
    that overflows."""
    few, many = [f"{key}:{n}" for n in range(500)], [f"{key}:{n}" for n in range(60_000)]
    with databases.connection(databases.primary(0)) as conn:
        assert not transaction.is_dense(conn, len(few) // 2, 4)
        assert transaction.is_dense(conn, 10**9, 4)
    full = f"{key}:1"
    wait = client.put(f"/v1/counters/{full}", json={"value": 2**63 - 2})
    assert wait.status_code == 200
    writes = []
    for keys in (few, many, many, few):
        body = {"increments": [{"key": one, "delta": 1} for one in keys]}
        writes.append(client.post("/v1/increments", json=body).raise_for_status().json()["id"])
    eventually(lambda: all(client.get(f"/v1/writes/{write}").json()["status"] != "queued" for write in writes), 60)
    found = [client.get(f"/v1/writes/{write}").json() for write in writes]
    assert [one["status"] for one in found] == ["applied"] * 4
    assert [[other["key"] for other in one.get("rejected", ())] for one in found] == [[], [full], [full], [full]]
    values = {one["key"]: one["value"] for one in listed(client, f"{key}:")}
    expected = dict.fromkeys(many, 2) | dict.fromkeys(few, 4) | {full: 2**63 - 1}
    assert values == expected


def listed(client: httpx.Client, prefix: str) -> list[dict[str, Any]]:
    """All counters with a prefix, from the primary."""
    found, cursor = [], None
    while True:
        params: dict[str, str | int] = {"prefix": prefix, "limit": 1000, "consistency": "primary"}
        if cursor:
            params["cursor"] = cursor
        page = client.get("/v1/counters", params=params).raise_for_status().json()
        found += page["results"]
        if (cursor := page["next"]) is None:
            return found
