"""The shards' breakers: their shared state, and opening and closing by hand, which every process follows."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from django.conf import settings
from django.core.management.base import CommandError
from django.test import override_settings
from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN

from counters.operators import breakers as operated
from counters.reading.reads import ask
from replication import steering
from replication.interventions import Order
from replication.models import Intervention
from runtime import redis
from sharding import breakers as shard_breakers
from sharding.breakers import SharedStorage
from sharding.databases import ShardUnavailable
from tests.support.admin import act, field, history
from tests.support.browser import Browser, said
from tests.support.cluster import Cluster, eventually, in_process
from tests.support.shards import key_on

BREAKERS = "/admin/replication/breaker/"
SHARD = 1
NAMES = (f"shard-{SHARD}", f"shard-{SHARD}-replica")
ALL = ["shard-0", "shard-0-replica", *NAMES, "journal", "cache", "broker"]


def reads(cluster: Cluster, key: str, shard: int) -> set[int]:
    """What the API processes answer to a read of the shard, of a key that is not in the cache."""
    found: set[int] = set()
    for api in cluster.processes("api"):
        one = key_on(shard, f"{key}:{time.monotonic_ns()}")
        found.add(httpx.get(f"http://127.0.0.1:{api['port']}/v1/counters/{one}").status_code)
    return found


def told(cluster: Cluster, line: str) -> bool:
    return all(line in cluster.metrics(api).splitlines() for api in cluster.processes("api"))


def release() -> None:
    for name in NAMES:
        operated.close(name, Order("a test", "it ends"))


def test_a_breaker_stays_open_for_at_least_its_reset_time(cluster: Cluster, key: str) -> None:
    """pybreaker keeps whole seconds; of a reset of two seconds, cut off they would leave one."""
    storage = SharedStorage(STATE_CLOSED, redis.cache(), namespace=key)
    at = datetime.now(UTC).replace(microsecond=900_000)
    storage.opened_at = at
    assert storage.opened_at is not None
    assert 0 <= (storage.opened_at - at).total_seconds() <= 1


@pytest.mark.limit("TALLY_BREAKER_FAILURES", "TALLY_BREAKER_RESET_SECONDS")
def test_the_settings_say_how_many_failures_in_a_row_open_a_breaker_and_for_how_long(
    cluster: Cluster, key: str
) -> None:
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        raise psycopg.OperationalError("of a test")

    with override_settings(TALLY=settings.TALLY.model_copy(update={"breaker_reset_seconds": 60})):
        breaker = shard_breakers._made(f"shard-{SHARD}-{key}")
    breaker.call(lambda: None)
    for _ in range(settings.TALLY.breaker_failures - 1):
        with pytest.raises(psycopg.OperationalError):
            breaker.call(fail)
    breaker.call(lambda: None)  # in a row, it says
    for _ in range(2 * settings.TALLY.breaker_failures):
        with pytest.raises((psycopg.OperationalError, ShardUnavailable)):
            breaker.call(fail)
    assert calls == 2 * settings.TALLY.breaker_failures - 1
    storage = SharedStorage(STATE_OPEN, redis.cache(), namespace=breaker.name)  # of another process
    storage.opened_at = datetime.now(UTC) - timedelta(seconds=50)
    assert breaker.state.name == STATE_OPEN
    with pytest.raises(ShardUnavailable):
        breaker.call(lambda: None)
    storage.opened_at = datetime.now(UTC) - timedelta(seconds=61)
    assert breaker.state.name == STATE_HALF_OPEN
    breaker.call(lambda: None)
    assert breaker.state.name == STATE_CLOSED


def test_one_process_of_all_tries_a_shard(cluster: Cluster, key: str) -> None:
    """Two storages stand for two processes: the state and the right to try are in Redis."""
    one, other = (SharedStorage(STATE_HALF_OPEN, redis.cache(), namespace=key) for _ in range(2))
    assert [one.may_probe(2), other.may_probe(2), one.may_probe(2)] == [True, False, False]


def test_a_read_waits_for_the_call_that_tries_a_shard_and_another_primary_ends_that(cluster: Cluster) -> None:
    """As while a switchover: without the wait the read fails, and without the end it fails half a second later."""
    for breaker in shard_breakers.every():
        if breaker.name in NAMES:
            breaker._storage.state = STATE_HALF_OPEN
            assert breaker._storage.may_probe(10)
    later = threading.Timer(0.2, steering._new_leader, [SHARD])
    later.start()
    try:
        assert ask(SHARD, lambda conn: conn.execute("SELECT 1").fetchone())[0] == (1,)
    finally:
        later.join()
    assert {one.state.name for one in shard_breakers.every()} == {STATE_CLOSED}


def test_what_is_opened_by_hand_is_open_in_every_process_until_it_is_closed(cluster: Cluster, key: str) -> None:
    """Longer than a breaker that opened by itself, and for the time asked; other shards do not notice."""
    before = Intervention.objects.count()
    try:
        for name in NAMES:
            cluster.command("breakers", "open", name, "--reason", "its disk is being replaced")
        eventually(lambda: reads(cluster, key, SHARD) == {503}, 10)
        reset = float(cluster.env.get("TALLY_BREAKER_RESET_SECONDS", "2"))
        until = time.monotonic() + 2 * reset
        while time.monotonic() < until:
            assert (reads(cluster, key, SHARD), reads(cluster, key, 0)) == ({503}, {200})
        assert told(cluster, f'tally_breaker_held{{component="{NAMES[0]}"}} 1.0')
        document, status = in_process("breakers", "--json")
        assert status == 1
        rows = {row["name"]: row for row in json.loads(document)}
        assert list(rows) == ALL
        assert [rows[name]["held"] for name in ALL] == [name in NAMES for name in ALL]
        assert (rows[NAMES[0]]["by"], rows[NAMES[0]]["reason"]) == ("manage.py breakers", "its disk is being replaced")
        page = cluster.command("breakers", check=False).splitlines()
        line = next(line for line in page if line.startswith(f"{NAMES[0]}: "))
        assert line.endswith("by manage.py breakers: its disk is being replaced")
        assert "open until it is closed" in line

        cluster.command("breakers", "close", NAMES[1])
        eventually(lambda: reads(cluster, key, SHARD) == {200}, 10)
        assert told(cluster, f'tally_breaker_held{{component="{NAMES[1]}"}} 0.0')
        assert told(cluster, f'tally_breaker_state{{component="{NAMES[1]}",state="closed"}} 1.0')

        for name in NAMES:
            cluster.command("breakers", "open", name, "--for", "3")
        eventually(lambda: reads(cluster, key, SHARD) == {503}, 3)
        eventually(lambda: reads(cluster, key, SHARD) == {200}, 10)
    finally:
        release()
    kept = Intervention.objects.order_by("at")[before:]
    assert [(one.shard, one.action, one.node, one.outcome) for one in kept][:3] == [
        *((SHARD, "open breaker", name, "open until it is closed") for name in NAMES),
        (SHARD, "close breaker", NAMES[1], "closed"),
    ]


def test_breakers_are_opened_and_closed_in_the_admin(cluster: Cluster, root: Browser, key: str) -> None:
    try:
        assert field(root.get(BREAKERS), "name") == ALL
        asked = act(root, BREAKERS, "open", *NAMES)
        assert "until somebody closes their breakers" in asked.text
        done = act(root, BREAKERS, "open", *NAMES, reason="an audit")
        assert "Opened: 2." in said(done), said(done)
        assert field(done, "state")[2:4] == ["held open"] * 2
        assert field(done, "reason")[2:4] == ["an audit"] * 2
        eventually(lambda: reads(cluster, key, SHARD) == {503}, 10)
        done = act(root, BREAKERS, "close", *NAMES, reason="it is over")
        assert field(done, "state")[2:4] == ["closed"] * 2
        eventually(lambda: reads(cluster, key, SHARD) == {200}, 10)
        assert {"Opened: an audit", "Closed: it is over"} <= set(history("breaker", NAMES[0]))
        assert (
            Intervention.objects.filter(node=NAMES[0], reason="an audit").exclude(by__startswith="user u").count() == 0
        )
    finally:
        release()


def test_staff_need_the_permission(browse: Any) -> None:
    assert browse("view_replica").get(BREAKERS).status_code == 403
    seer = browse("view_breaker")
    assert seer.get(BREAKERS).status_code == 200
    assert act(seer, BREAKERS, "open", NAMES[0], reason="x").status_code == 403


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("open", "shard-9"), "there is no breaker 'shard-9'"),
        (("open",), "which breaker"),
        (("close", "shard-0", "--for", "3"), "--for is for `open`"),
        (("open", "shard-0", "--for", "0"), "a number of seconds"),
    ],
)
def test_what_cannot_be_ordered_is_a_sentence(cluster: Cluster, words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint):
        cluster.command("breakers", *words)
