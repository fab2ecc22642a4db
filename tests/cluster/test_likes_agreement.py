"""Whether likes agree with their counts and with each other: never wrong while writes go on, and every contradiction named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from random import Random
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.conf import settings
from psycopg import sql

from counters.reconciliation.checks import Checked
from likes import agreement, writes
from likes.agreement import State, agree
from likes.events import Event
from likes.names import count_key, liker_key
from likes.sides import LIKERS, Side
from replication.digest import RANGES
from replication.turns import fitting
from sharding import databases, topology
from tests.support.admin import field
from tests.support.browser import Browser
from tests.support.cluster import Cluster, eventually, frozen
from tests.support.journal import is_drained
from tests.support.likes import SHARDS, submit

PAGE = "/admin/counters/reconciliation/"
SIDES = ("user_likes beside liked_items", "liked_items beside user_likes")
pytestmark = pytest.mark.usefixtures("whole")


def on(shard: int, key_of: Callable[[str], str]) -> str:
    """A name of a test's own whose key is on this shard."""
    names = (f"test/{uuid4().hex}" if key_of is count_key else uuid4().hex for _ in count())
    return next(one for one in names if topology.current().shard_of(key_of(one)) == shard)


def drained() -> None:
    eventually(lambda: all(is_drained(shard) for shard in SHARDS), 60)


def looked() -> dict[str, Checked]:
    """What the checks find, all shards together."""
    found: dict[str, Checked] = {}
    for shard in SHARDS:
        for name, one in {**agreement.counts(shard), **agreement.sides(shard)}.items():
            done = found.setdefault(name, Checked())
            done.checked += one.checked
            done.detail += one.detail
            done.found(one.some)
    return found


@contextmanager
def without(shard: int, table: str, item: str, user: str) -> Iterator[None]:
    """While a row is missing."""
    name = sql.Identifier(table)
    with databases.connect(databases.primary(shard), autocommit=True) as conn:
        (row,) = conn.execute(
            sql.SQL("DELETE FROM {} WHERE item = %s AND user_id = %s RETURNING *").format(name), (item, user)
        ).fetchall()
        try:
            yield
        finally:
            conn.execute(sql.SQL("INSERT INTO {} VALUES ({})").format(name, sql.SQL(", ").join(map(sql.Literal, row))))


@contextmanager
def changed(shard: int, query: str, more: int, *arguments: str) -> Iterator[None]:
    """While a number is another one, by hand."""
    with databases.connect(databases.primary(shard), autocommit=True) as conn:
        conn.execute(query, (more, *arguments))
        try:
            yield
        finally:
            conn.execute(query, (-more, *arguments))


def test_nothing_is_wrong_while_likes_and_unlikes_go_on() -> None:
    stop, own, chance = threading.Event(), uuid4().hex, Random(1)

    def run() -> None:
        while not stop.is_set():
            events = [
                Event(f"test/{own}{chance.randrange(20)}", f"{own}{chance.randrange(20)}", chance.random() < 0.5)
                for _ in range(50)
            ]
            submit(writes.write(events))
            stop.wait(0.04)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        eventually(lambda: looked()["counts of likes"].checked >= 20)
        for _ in range(5):
            found = looked()
            assert {name: (one.wrong, one.some) for name, one in found.items()} == dict.fromkeys(found, (0, []))
            assert all(one.checked for one in found.values())
    finally:
        stop.set()
        thread.join()


def test_every_contradiction_is_named_and_no_old_unlike_is_one(
    cluster: Cluster, client: httpx.Client, root: Browser
) -> None:
    items = [on(0, count_key) for _ in range(3)]
    here, there = on(0, liker_key), on(1, liker_key)
    submit(writes.write([Event(item, user, liked=True) for item in items for user in (here, there)]))
    submit(writes.write([Event(items[0], there, liked=False)]))
    drained()
    assert not any(one.wrong or one.detail for one in looked().values())
    with (
        changed(0, "UPDATE counter SET value = value + %s WHERE key = %s", 1, count_key(items[0])),
        without(1, "liked_items", items[1], there),
        without(1, "liked_items", items[0], there),  # of an unlike: it may be gone
        changed(0, "UPDATE liked_items SET at = at + %s WHERE item = %s AND user_id = %s", 1, items[2], here),
    ):
        for _ in range(2):  # the next round looks there again
            found = looked()
            assert found["counts of likes"].some == [f"{items[0]}: counted 2, liked by 1"]
            ours, theirs = (found[name].some for name in SIDES)
            assert sorted(text.partition(":")[0] for text in ours) == sorted(
                [f"{there} and {items[1]}", f"{here} and {items[2]}"]
            )
            assert [text for text in ours if text.endswith("absent in liked_items")]
            assert [text.partition(":")[0] for text in theirs] == [f"{here} and {items[2]}"]
        told = client.get("/v1/shards/0/digest", params={"wait": 30}).json()
        assert told["equal"] is False
        assert told["checks"]["counts of likes"]["some"] == found["counts of likes"].some
        assert items[0] in field(root.get(PAGE, params={"shard": 0}), "checks")[0]
        metric = 'tally_inconsistent_rows{check="counts of likes",shard="0"} 1.0'
        eventually(lambda: metric in cluster.metrics(cluster.processes("spill-worker")[0]))
    with without(0, "user_likes", items[1], here):
        found = looked()
        assert found["counts of likes"].some == [f"{items[1]}: counted 2, liked by 1"]
        assert [text.partition(":")[0] for text in found[SIDES[1]].some] == [f"{here} and {items[1]}"]
    assert not any(one.wrong for one in looked().values())
    eventually(lambda: client.get("/v1/shards/0/digest", params={"wait": 30}).json()["equal"] is True, 60)


def test_what_waits_in_a_journal_is_no_contradiction(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.TALLY, "reconcile_seconds", 1.0)
    item, user = on(0, count_key), on(1, liker_key)
    with frozen(*cluster.processes("worker", 1)):
        submit(writes.write([Event(item, user, liked=True)]))
        found = eventually(lambda: one if (one := agreement.sides(0)[SIDES[0]]).detail else None)
        assert (found.wrong, found.some) == (0, [])
    drained()
    found = agreement.sides(0)[SIDES[0]]
    assert (found.wrong, found.detail) == (0, "")


def test_a_round_looks_at_so_many_rows_and_the_next_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    item = on(0, count_key)
    submit(writes.write([Event(item, f"{uuid4().hex}", liked=True) for _ in range(50)]))
    drained()
    monkeypatch.setattr(agreement, "_AT_A_TIME", 10)
    monkeypatch.setattr(settings.TALLY, "reconcile_rows", 100)
    seen: set[Any] = set()
    states = agreement._states

    def noted(side: Side, rows: Any) -> agreement.States:
        found = states(side, rows)
        if side is LIKERS:
            seen.update(pair for pair in found if pair.item == item)
        return found

    monkeypatch.setattr(agreement, "_states", noted)
    checked = [agreement.sides(0)[SIDES[0]].checked for _ in range(2)]
    assert all(10 <= one < 20 for one in checked)
    eventually(lambda: agreement.sides(0) and len(seen) == 50, 60)


def test_so_many_ranges_fit() -> None:
    assert [fitting(rows, 100) for rows in (0, 100, 101, 200, 1600, 10**9)] == [RANGES, RANGES, 15, 8, 1, 1]


def test_an_old_unlike_agrees_with_nothing_there() -> None:
    liked, unliked = State(True, 1, b""), State(False, 1, b"")
    assert agree(None, None)
    assert agree(unliked, None)
    assert agree(None, unliked)
    assert agree(liked, liked)
    assert not any(
        agree(*pair) for pair in ((liked, None), (None, liked), (liked, unliked), (liked, State(True, 2, b"")))
    )
