"""Windows that were read ahead, against the real journal and shards: another shift, other beginnings, results that are
waited for."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from uuid_utils.compat import uuid7

from counters import batch
from counters.apply import loading, transaction
from counters.apply.loading import Loader, Window
from counters.apply.worker import Worker
from counters.batch import Events, Increments, Step
from counters.intake import dispatch
from counters.intake.append import Flush, Payload, append
from counters.intake.confirmed import Confirmed
from counters.intake.journal import Journal
from counters.intake.lease import Lease, WakeUps
from counters.intake.set_aside import SetAsideBatches
from runtime import redis
from sharding import databases
from sharding.lanes import Lane
from tests.support.cluster import Cluster, eventually, value_of
from tests.support.journal import append_bytes, is_drained, lane_of, put_in_journal
from tests.support.shards import rows


@pytest.fixture
def lane(cluster: Cluster, key: str) -> Iterator[Lane]:
    """The lane of `key`, whose own workers stand still until the test has ended. None of them waits for more there, so
    nothing wakes the lane but what the test does."""
    lane = lane_of(key)
    eventually(lambda: is_drained(lane.shard) and Lease(lane).holder() is None)
    workers = [psutil.Process(one["pid"]) for one in cluster.processes("worker", lane.shard)]
    for worker in workers:
        worker.suspend()
    yield lane
    for worker in workers:
        worker.resume()
    put_in_journal(lane, Increments([key], [0]))
    dispatch.send(lane)
    eventually(lambda: is_drained(lane.shard))


@pytest.fixture
def conn(lane: Lane) -> Iterator[psycopg.Connection[Any]]:
    with databases.connect(databases.primary(lane.shard), autocommit=True) as conn:
        yield conn


@pytest.fixture
def loader(lane: Lane) -> Iterator[Callable[[], Loader]]:
    """Makes loaders of the lane."""
    made: list[WakeUps] = []

    def make() -> Loader:
        made.append(WakeUps(lane))
        return Loader(lane, made[-1], Confirmed())

    yield make
    for one in made:
        one.close()


def positions(window: Window) -> list[int]:
    return [placed.position for placed in window.batches]


def test_a_window_of_which_another_worker_has_applied_more_is_right(
    client: httpx.Client, lane: Lane, conn: psycopg.Connection[Any], loader: Callable[[], Loader], key: str
) -> None:
    """It was read first and is applied last; what follows it goes on where the other one ended."""
    operations: list[batch.Operation] = [
        Increments([key], [100]),
        Step(key, "set", 5),
        Increments([key], [1]),
        Step(key, "set", 7),
        Increments([key], [2]),
    ]
    placed = [put_in_journal(lane, operation)[1] for operation in operations]
    first, second = loader(), loader()
    read_ahead = first.take(placed[0] - 1, 3)
    other = second.take(placed[0] - 1, 4)
    assert (positions(read_ahead), positions(other)) == (placed[:3], placed[:4])
    assert positions(_fresh(transaction.apply(conn, lane, other), other)) == placed[:4]
    assert value_of(client, key) == 7
    assert positions(_fresh(transaction.apply(conn, lane, read_ahead), read_ahead)) == []
    assert value_of(client, key) == 7
    following = first.take(read_ahead.end, 64)
    assert positions(following) == placed[3:]
    assert positions(_fresh(transaction.apply(conn, lane, following), following)) == placed[4:]
    assert value_of(client, key) == 9
    assert rows(lane.shard, "SELECT version FROM counter WHERE key = %s", key) == [(placed[4],)]


def test_a_window_of_which_another_worker_has_applied_a_part_is_planned_anew(
    client: httpx.Client, lane: Lane, conn: psycopg.Connection[Any], loader: Callable[[], Loader], key: str
) -> None:
    placed = [put_in_journal(lane, Increments([key], [10**n]))[1] for n in range(4)]
    whole = loader().take(placed[0] - 1, 64)
    transaction.apply(conn, lane, loader().take(placed[0] - 1, 2))
    assert value_of(client, key) == 11
    done = transaction.apply(conn, lane, whole)
    assert [one.position for one in done.fresh] == placed[2:]
    assert (value_of(client, key), done.plan.added) == (1111, {key: 1100})


def _fresh(done: transaction.Committed, window: Window) -> Window:
    return Window(window.after, window.end, done.fresh)


def test_a_window_that_does_not_continue_the_cursor_is_read_again(
    lane: Lane, loader: Callable[[], Loader], key: str
) -> None:
    """After a failover, or to take batches singly, the shift begins elsewhere: what was read ahead is forgotten."""
    placed = [put_in_journal(lane, Increments([key], [1]))[1] for _ in range(4)]
    one = loader()
    taken = one.take(placed[0] - 1, 2)
    one.rest(0.2, 64)
    assert one._next.batches, "read ahead"
    assert positions(one.take(0, 1)) == placed[:1]
    assert positions(one.take(taken.end, 64)) == placed[2:]


def test_events_of_many_batches_do_not_share_a_window(
    lane: Lane, loader: Callable[[], Loader], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each writes rows of its own, so what comes meanwhile would wait for all of them. Increments do, and a rest ends as soon
    as the next window is full."""
    monkeypatch.setattr(loading, "_MOST_EVENTS", 20)
    monkeypatch.setattr(loading, "_CHUNK", 2)
    events = Events("nobody's", [key] * 8, ["other"] * 8, [], False)
    first = put_in_journal(lane, Increments([key], [1]))[1]
    try:
        placed = [first, *(put_in_journal(lane, events)[1] for _ in range(8))]
        one = loader()
        window = one.take(first - 1, 512)
        assert (positions(window), window.events, window.is_full) == (placed[:4], 24, True), "no more after 20 events"
        began = time.monotonic()
        one.rest(30, 512)
        assert time.monotonic() - began < 10
        assert positions(one.take(window.end, 512)) == placed[4:8]
        rest = one.take(placed[7], 512)
        assert (positions(rest), rest.is_full) == (placed[8:], False)
    finally:  # no room applies them
        Journal(lane).remove([entry.id.bytes for entry in Journal(lane).entries(after=first)], [])


def test_a_read_of_the_journal_ends_with_the_batch_that_fills_it(
    lane: Lane, loader: Callable[[], Loader], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal takes no writes meanwhile. A window takes several reads."""
    placed = [put_in_journal(lane, Increments([f"{key}{n}" for n in range(50)], [1] * 50))[1] for _ in range(4)]
    size = len(Journal(lane).read(placed[0] - 1, 1, 1)[1][0][2] or b"")
    for most, count in ((1, 1), (size, 1), (size + 1, 2), (3 * size, 3), (2**40, 4)):
        _, found = Journal(lane).read(placed[0] - 1, 64, most)
        assert [position for _, position, _ in found] == placed[:count]
    monkeypatch.setattr(loading, "_CHUNK_BYTES", size + 1)
    assert positions(loader().take(placed[0] - 1, 64)) == placed


def test_reading_changes_nothing(lane: Lane, loader: Callable[[], Loader]) -> None:
    """What cannot be decoded stays in the journal until the window is applied; so it may be thrown away."""
    id = uuid7()
    position = append_bytes(lane, id, b"\xc1 not a batch")
    window = loader().take(position - 1, 64)
    assert ([entry.id for entry, _ in window.undecodable], window.batches, window.end) == ([id], [], position)
    assert id not in SetAsideBatches(lane).all()
    assert Journal(lane).position(id) == position
    SetAsideBatches(lane).add(window.undecodable[0][0], "by a test")
    SetAsideBatches(lane).discard(id)


def test_a_rest_ends_when_somebody_waits(lane: Lane, loader: Callable[[], Loader], key: str) -> None:
    one = loader()
    after = put_in_journal(lane, Increments([key], [1]))[1]
    one.take(after, 64)
    put_in_journal(lane, Increments([key], [1]))
    started = time.monotonic()
    one.rest(0.5, 64)
    assert time.monotonic() - started >= 0.5, "nobody waits for an increment"
    id = uuid7()
    data = batch.encode(id, [(0, batch.encode_segment(Step(key, "increment", 1)))], [], "outcomes:nobody")
    threading.Timer(0.2, lambda: append(Flush(id, {lane: Payload(data, awaited=True)}, 1, {}, None))).start()
    started = time.monotonic()
    one.rest(10, 64)
    assert time.monotonic() - started < 5
    window = one.take(after, 64)
    assert (len(window.batches), window.awaited, window.reads, window.plan) == (2, True, {key}, None)


@contextmanager
def several(lane: Lane, number: int) -> Iterator[None]:
    """So many workers that apply a lane again and again while the block runs, and lose its lease, so that their shifts
    overlap."""
    stop = threading.Event()

    def apply(name: str) -> None:
        with closing(Worker(name, [lane.shard])) as worker:
            while not stop.is_set():
                worker.apply(lane)
                time.sleep(0.01)

    threads = [threading.Thread(target=apply, args=(f"of a test {n}",)) for n in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)


def lose_lease(lane: Lane) -> None:
    redis.journal().delete(Lease(lane).key)


def test_workers_that_take_turns_keep_the_journals_order(client: httpx.Client, lane: Lane, key: str) -> None:
    """Three workers of one lane and a chain of compare-and-sets: one that is applied out of turn would be rejected."""
    others = [one for n in range(999) if lane_of(one := f"{key}:{n}") == lane][:7]
    with several(lane, 3):
        version, steps = 0, []
        for n in range(300):
            id, position = put_in_journal(lane, Step(key, "set", n, version), Increments([others[n % 7]], [n]))
            version = position
            steps.append(id)
            if random.random() < 0.3:
                lose_lease(lane)
            if n % 50 == 0:
                time.sleep(0.2)
        eventually(lambda: value_of(client, key) == 299)
    found = rows(lane.shard, "SELECT status, count(*) FROM outcome WHERE id = ANY(%s) GROUP BY status", steps)
    assert found == [("applied", 300)]
    sums = {one: sum(range(n, 300, 7)) for n, one in enumerate(others)}
    assert {one: value_of(client, one) for one in sums} == sums


def test_workers_that_find_one_bad_batch_set_nothing_else_aside(client: httpx.Client, lane: Lane, key: str) -> None:
    """PostgreSQL refuses two batches of forty; both workers take batches singly then, and the others are counted."""
    refused = next(other for n in range(999) if lane_of(other := f"{key}:{n}\0") == lane)
    bad = set()
    for n in range(40):
        id, _ = put_in_journal(lane, Increments([refused if n in (7, 8) else key], [1]))
        if n in (7, 8):
            bad.add(id)
    with several(lane, 2):

        def is_done() -> bool:
            lose_lease(lane)
            return value_of(client, key) == 38 and set(SetAsideBatches(lane).all()) == bad

        eventually(is_done, pause=0.02)
    for id in bad:
        SetAsideBatches(lane).discard(id)
