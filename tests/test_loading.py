"""Windows that were read ahead, against the real journal and shards: another worker, other beginnings, results that are waited for."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from uuid_utils.compat import uuid7

from counters.apply import transaction
from counters.apply.applier import Applier
from counters.apply.loading import Loader, Window
from counters.intake import batch, dispatch, journal
from counters.intake.batch import Increments, Step
from sharding import databases, topology
from tests.conftest import Cluster, eventually, value_of
from tests.test_applier import put_in_journal, rows


@pytest.fixture
def shard(cluster: Cluster, key: str) -> Iterator[int]:
    """The shard of `key`, whose own workers stand still until the test has ended."""
    number = topology.current().shard_of(key)
    eventually(lambda: journal.depth(number) == 0)
    workers = [psutil.Process(one["pid"]) for one in cluster.processes("worker", number)]
    for worker in workers:
        worker.suspend()
    yield number
    for worker in workers:
        worker.resume()
    dispatch.send(number, *put_in_journal(number, Increments([key], [0])))
    eventually(lambda: journal.depth(number) == 0)


@pytest.fixture
def conn(shard: int) -> Iterator[psycopg.Connection[Any]]:
    with databases.connect(databases.primary(shard), autocommit=True) as conn:
        yield conn


def positions(window: Window) -> list[int]:
    return [placed.position for placed in window.batches]


def test_a_window_of_which_another_worker_has_applied_more_is_right(
    cluster: Cluster, client: httpx.Client, shard: int, conn: psycopg.Connection[Any], key: str
) -> None:
    """It was read first and is applied last; what follows it goes on where the other one ended."""
    operations: list[batch.Operation] = [
        Increments([key], [100]),
        Step(key, "set", 5),
        Increments([key], [1]),
        Step(key, "set", 7),
        Increments([key], [2]),
    ]
    placed = [put_in_journal(shard, operation)[1] for operation in operations]
    first, second = Loader(shard), Loader(shard)
    read_ahead = first.take(placed[0] - 1, 3)
    other = second.take(placed[0] - 1, 4)
    assert (positions(read_ahead), positions(other)) == (placed[:3], placed[:4])
    assert positions(_fresh(transaction.apply(conn, shard, other), other)) == placed[:4]
    assert value_of(client, key) == 7
    assert positions(_fresh(transaction.apply(conn, shard, read_ahead), read_ahead)) == []
    assert value_of(client, key) == 7
    following = first.take(read_ahead.end, 64)
    assert positions(following) == placed[3:]
    assert positions(_fresh(transaction.apply(conn, shard, following), following)) == placed[4:]
    assert value_of(client, key) == 9
    assert rows(shard, "SELECT version FROM counter WHERE key = %s", key) == [(placed[4],)]


def test_a_window_of_which_another_worker_has_applied_a_part_is_planned_anew(
    cluster: Cluster, client: httpx.Client, shard: int, conn: psycopg.Connection[Any], key: str
) -> None:
    placed = [put_in_journal(shard, Increments([key], [10**n]))[1] for n in range(4)]
    loader = Loader(shard)
    whole = loader.take(placed[0] - 1, 64)
    transaction.apply(conn, shard, Loader(shard).take(placed[0] - 1, 2))
    assert value_of(client, key) == 11
    done = transaction.apply(conn, shard, whole)
    assert [one.position for one in done.fresh] == placed[2:]
    assert (value_of(client, key), done.plan.added) == (1111, {key: 1100})


def _fresh(done: transaction.Committed, window: Window) -> Window:
    return Window(window.after, window.end, done.fresh)


def test_a_window_that_does_not_continue_the_cursor_is_read_again(cluster: Cluster, shard: int, key: str) -> None:
    """After a failover, or to take batches singly, the applier begins elsewhere: what was read ahead is forgotten."""
    placed = [put_in_journal(shard, Increments([key], [1]))[1] for _ in range(4)]
    loader = Loader(shard)
    taken = loader.take(placed[0] - 1, 2)
    loader.read_ahead()
    eventually(lambda: loader._next.batches, 5, 0.01)
    assert positions(loader.take(0, 1)) == placed[:1]
    assert positions(loader.take(taken.end, 64)) == placed[2:]


def test_reading_changes_nothing(cluster: Cluster, shard: int, key: str) -> None:
    """What cannot be decoded stays in the journal until the window is applied; so it may be thrown away."""
    id = uuid7()
    position = journal.append(id, {shard: b"\xc1 not a batch"}, 1, {}).position
    window = Loader(shard).take(position - 1, 64)
    assert ([entry.id for entry, _ in window.unfit], window.batches, window.end) == ([id], [], position)
    assert id not in journal.poison(shard)
    assert journal.position(shard, id) == position
    journal.set_aside(shard, window.unfit[0][0], "by a test")
    journal.discard(shard, id)


def test_a_rest_ends_when_somebody_waits(cluster: Cluster, shard: int, key: str) -> None:
    loader = Loader(shard)
    after = put_in_journal(shard, Increments([key], [1]))[1]
    loader.take(after, 64)
    loader.read_ahead()
    put_in_journal(shard, Increments([key], [1]))
    started = time.monotonic()
    loader.rest(0.5)
    assert time.monotonic() - started >= 0.5, "nobody waits for an increment"
    id = uuid7()
    data = batch.encode(id, [(0, batch.encode_segment(Step(key, "increment", 1)))], [], "outcomes:nobody")
    threading.Timer(0.2, lambda: journal.append(id, {shard: data}, 1, {})).start()
    started = time.monotonic()
    loader.rest(10)
    assert time.monotonic() - started < 5
    window = loader.take(after, 64)
    assert (len(window.batches), window.awaited, window.reads, window.plan) == (2, True, {key}, None)


@contextmanager
def several(shard: int, number: int) -> Iterator[list[Applier]]:
    """Appliers of one shard, as in so many workers."""
    appliers = [Applier(shard) for _ in range(number)]
    try:
        yield appliers
    finally:
        for one in appliers:
            one.stop()
        assert all(one.stopped.wait(10) for one in appliers)


def test_workers_that_take_turns_keep_the_journals_order(cluster: Cluster, client: httpx.Client, shard: int, key: str) -> None:
    """Three appliers of one shard and a chain of compare-and-sets: one that is applied out of turn would be rejected."""
    with several(shard, 3) as appliers:
        version, steps = 0, []
        for n in range(300):
            id, position = put_in_journal(shard, Step(key, "set", n, version), Increments([f"{key}:{n % 7}"], [n]))
            version = position
            steps.append(id)
            random.choice(appliers).wake()
            if n % 50 == 0:
                time.sleep(0.2)
        for one in appliers:
            one.apply_up_to(version)
    assert value_of(client, key) == 299
    found = rows(shard, "SELECT status, count(*) FROM outcome WHERE id = ANY(%s) GROUP BY status", steps)
    assert found == [("applied", 300)]
    sums = {f"{key}:{n}": sum(range(n, 300, 7)) for n in range(7)}
    eventually(lambda: {one: value_of(client, one) for one in sums} == sums)


def test_workers_that_find_the_same_poison_set_nothing_else_aside(cluster: Cluster, client: httpx.Client, shard: int, key: str) -> None:
    """PostgreSQL refuses two batches of forty; both appliers take batches singly then, and the others are counted."""
    unfit = next(other for n in range(99) if topology.current().shard_of(other := f"{key}:{n}\0") == shard)
    bad, last = set(), 0
    for n in range(40):
        id, last = put_in_journal(shard, Increments([unfit if n in (7, 8) else key], [1]))
        if n in (7, 8):
            bad.add(id)
    with several(shard, 2) as appliers:
        for one in appliers:
            one.wake()
        for one in appliers:
            one.apply_up_to(last)
    assert value_of(client, key) == 38
    assert set(journal.poison(shard)) == bad
    for id in bad:
        journal.discard(shard, id)
