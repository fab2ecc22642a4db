"""Workers are killed while likes are applied, or find them when they are old: counts and both copies are those of the events
that were accepted."""

from __future__ import annotations

import random
from itertools import count
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from uuid_utils.compat import uuid7

from counters.write_id import WriteId
from likes import writes
from likes.events import Event
from likes.names import count_key, liker_key
from tests.support.cluster import Cluster, eventually, frozen
from tests.support.journal import lane_of
from tests.support.likes import SHARDS, Model, drained, found, submit
from tests.support.shards import rows
from tests.support.workers import impatient_worker

pytestmark = pytest.mark.usefixtures("whole")


def test_likes_are_exact_after_workers_were_killed_in_the_middle(cluster: Cluster) -> None:
    """Each of 60 flushes is sent twice, as after an acknowledgement that was lost."""
    own, model, chance = uuid4().hex, Model(), random.Random(13)
    items = [f"post/{own}-{n}" for n in range(20)]
    flushes = [
        [Event(chance.choice(items), f"{own}-{chance.randrange(50)}", chance.random() < 0.7) for _ in range(200)]
        for _ in range(60)
    ]
    sent = chance.sample([*range(60), *range(60)], 120)
    for number, flush in enumerate(sent):
        position = submit(writes.write(flushes[flush]))
        model.take(flushes[flush], position)
        if number % 60 == 15:
            for worker in cluster.processes("worker"):
                psutil.Process(worker["pid"]).kill()
            eventually(lambda: cluster.all_running("worker"), 60)
    drained()
    in_shards = found(items)
    in_shards.check(items)
    assert in_shards.by_item == model.states


def test_likes_are_exact_after_a_worker_was_killed_between_their_halves(cluster: Cluster) -> None:
    """One shard has applied its halves when the worker of the other is killed: that of one like by item, of one by user.
    Both were sent twice."""
    names = [f"post/{uuid4().hex}" for _ in range(99)]
    items = [next(one for one in names if lane_of(count_key(one)).shard == shard) for shard in SHARDS]
    users = [next(str(n) for n in count() if lane_of(liker_key(str(n))).shard == shard) for shard in SHARDS]
    by_item, by_user = (items[0], users[1]), (items[1], users[0])
    with frozen(*cluster.processes("worker", 1)):
        for _ in range(2):
            submit(writes.write([Event(*pair, liked=True, at=10**15, id=b"x") for pair in (by_item, by_user)]))
        due = [by_item], [by_user], {items[0]: 1}
        eventually(lambda: (there := found(items)) and ([*there.by_item], [*there.by_user], there.counts) == due)
        for worker in cluster.processes("worker", 1):
            psutil.Process(worker["pid"]).kill()
    eventually(lambda: cluster.all_running("worker"), 60)
    drained()
    in_shards = found(items)
    in_shards.check(items)
    assert in_shards.counts == dict.fromkeys(items, 1)


def test_a_like_that_waits_in_the_stale_queue_is_seen_by_its_user(cluster: Cluster, client: httpx.Client) -> None:
    """Although its lane has applied what came after it."""
    item, deferred = uuid4().hex, "SELECT 1 FROM ledger WHERE deferred IS NOT NULL AND id = %s"
    path, shard = f"/v1/likes/post/{item}", lane_of(count_key(f"post/{item}")).shard
    own = {"liked": True, "pending": True}

    def seen(**params: str) -> dict[str, Any]:
        told = client.get(f"{path}/users/ann", params=params).json()
        return {name: told[name] for name in own}

    with frozen(*cluster.processes("worker"), *cluster.processes("spill-worker")), impatient_worker(cluster):
        id = WriteId.parse(client.put(f"{path}/users/ann").json()["id"])
        eventually(lambda: rows(shard, deferred, id.batch), 60)
        assert seen(consistency="primary") == own
        eventually(lambda: seen() == own)
        assert client.get(path).json()["pending"] == 1
    eventually(lambda: seen() == {"liked": True, "pending": False}, 60)
    assert client.get(path, params={"consistency": "primary"}).json()["count"] == 1


def test_likes_that_are_old_when_a_worker_finds_them_are_exact(cluster: Cluster) -> None:
    """They are left to the stale queue, after newer ones, while the worker is killed."""
    own, model, chance = uuid4().hex, Model(), random.Random(14)
    items = [f"post/{own}-{n}" for n in range(10)]
    ids = [uuid7() for _ in range(12)]
    deferred = "SELECT id FROM ledger WHERE deferred IS NOT NULL AND id = ANY(%s)"
    with frozen(*cluster.processes("worker")), impatient_worker(cluster) as again:
        for turn, id in enumerate(ids):
            flush = [
                [Event(chance.choice(items), f"{own}-{chance.randrange(20)}", chance.random() < 0.7) for _ in range(50)]
                for _ in range(2)
            ]
            position = submit(*map(writes.write, flush), id=id)
            for index, events in enumerate(flush):
                model.take(events, position + index)
            if turn % 4 == 3:
                again()
        eventually(lambda: all(rows(shard, deferred, ids) for shard in SHARDS), 60)
    drained()
    in_shards = found(items)
    in_shards.check(items)
    assert in_shards.by_item == model.states
