"""Reconciliation against real servers: equal while writes go on, and every kind of difference found, named and
mended."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any
from unittest.mock import ANY
from uuid import uuid4

import httpx
import psutil
import pytest
from django.conf import settings
from django.core.management.base import CommandError

from counters.reading import cache
from counters.reconciliation import rounds
from likes import writes
from likes.events import Event
from likes.names import count_key
from replication import digests, healing
from replication.digest import Difference
from replication.models import Intervention
from runtime import redis
from sharding import databases, topology
from sharding.slots import slot_of
from tests.support import damage
from tests.support.admin import act, field, history
from tests.support.browser import Browser
from tests.support.cluster import Cluster, eventually, value_of, wait_applied
from tests.support.damage import Replica
from tests.support.likes import found as found_likes
from tests.support.likes import submit
from tests.support.load import Load, load

PAGE = "/admin/counters/reconciliation/"
# Twice as many lanes, as far as `apply_state` says; nobody applies the new ones.
MORE_LANES = """
INSERT INTO apply_state (lane, last_version, last_set_version)
SELECT lane + count(*) OVER (), last_version, last_set_version FROM apply_state"""
FEWER_LANES = "DELETE FROM apply_state WHERE lane >= %s"


def compare_later(shard: int, version: int) -> digests.Round:
    """A round of a moment after a version."""

    def compared() -> digests.Round | None:
        done = compare(shard)
        return done if done.version > version else None

    found: digests.Round = eventually(compared)
    return found


def compare(shard: int, seconds: float = 60) -> digests.Round:
    """A round now, or when the one that beat asks for every ten minutes has ended."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return digests.compare(shard)
        except digests.Busy:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


pytestmark = pytest.mark.usefixtures("whole")


@pytest.fixture
def counter(client: httpx.Client, key: str) -> str:
    """A key that was written once: 7."""
    wait_applied(client, key, 7)
    return key


def shard_of(key: str) -> int:
    return topology.current().shard_of(key)


def like_on(shard: int) -> tuple[str, str, int]:
    """A like of an item on this shard: item, user, moment."""
    item = next(one for _ in count() if shard_of(count_key(one := f"test/{uuid4().hex}")) == shard)
    submit(writes.write([Event(item, "ann", liked=True)]))
    return item, "ann", eventually(lambda: found_likes([item]).by_item)[item, "ann"][1]


@contextmanager
def writes_in_another_lane(client: httpx.Client, key: str) -> Iterator[Load]:
    """Increments of a counter of the same shard while the block runs, in another lane than the key's."""
    in_force = topology.reload()
    lane = in_force.lane_of(key)
    elsewhere = {other for other in in_force.lanes_of(lane.shard) if other != lane}
    running = Load(client, [next(other for n in count() if in_force.lane_of(other := f"{key}:{n}") in elsewhere)])
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        running.goes_on(1)
        yield running
    finally:
        running.stop()
        thread.join()


def by_hand(key: str, value: int) -> None:
    """What an operator does behind Tally's back, on the primary."""
    with databases.connect(databases.primary(shard_of(key)), autocommit=True) as conn:
        conn.execute("UPDATE counter SET value = %s WHERE key = %s", (value, key))


def digest_of(client: httpx.Client, shard: int) -> dict[str, Any]:
    answer: dict[str, Any] = client.get(f"/v1/shards/{shard}/digest", params={"wait": 30}).raise_for_status().json()
    return answer


def metric(cluster: Cluster, name: str, **labels: object) -> float:
    """Of the process whose rounds these are."""
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    for line in cluster.metrics(cluster.processes("spill-worker")[0]).splitlines():
        if line.startswith(f"{name}{{") and all(label in line for label in wanted):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_a_busy_shard_compares_equal_each_time(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """Under writes to both shards, each lane is compared at one moment, and each round is later than the one before."""
    with load(cluster, key):
        eventually(lambda: all(compare(shard).counters for shard in (0, 1)))
        versions: dict[int, int] = {}
        for _ in range(6):
            for shard in (0, 1):
                done = compare_later(shard, versions.get(shard, 0))
                assert [(one.equal, one.detail, one.digest) for one in done.comparisons] == [(True, "", done.digest)]
                assert not done.altered
                versions[shard] = done.version


def test_a_replica_that_differs_is_found_named_and_copied_again(
    cluster: Cluster, client: httpx.Client, counter: str
) -> None:
    shard, replica = shard_of(counter), Replica(cluster, shard_of(counter))
    _, version = cache.get_many([counter])[counter]
    difference = Difference(counter, (7, version), (8, version))
    item, user, at = like_on(shard)
    differing = [difference, Difference(f"{item} {user}", ANY, ANY, "user_likes")]
    replica.rewrite(damage.value(counter, version, 7, 8), damage.moment("user_likes", item, user, at, at + 1))
    # In the same lane a write may put a good page in the place of the damaged one.
    with writes_in_another_lane(client, counter) as running:
        for _ in range(3):
            running.goes_on(20)
            (one,) = compare(shard).comparisons
            assert list(one.differences) == differing
            assert [(row[1], row[0]) for row in (one.differences[1].primary, one.differences[1].replica) if row] == [
                (at, True),
                (at + 1, True),
            ]
    assert digests.latest(shard)[replica.name].differences[0] == difference

    # The first round that healing hears of. It asks for a second one, and that has the replica copied again.
    told = cluster.manage("reconcile", "--shard", str(shard), check=False)
    assert told.returncode == 1
    assert counter in told.stdout
    assert "reinitialise" in told.stdout
    found = client.get(f"/v1/shards/{shard}/digest").json()
    assert found["equal"] is False
    (one,) = found["replicas"]
    assert (one["node"], one["equal"], one["differing_keys"]) == (replica.name, False, 2)
    assert [(row["table"], row["key"]) for row in one["differing_rows"]] == [("user_likes", f"{item} {user}")]
    assert one["differences"] == [
        {"key": counter, "primary": {"value": 7, "version": version}, "replica": {"value": 8, "version": version}}
    ]
    eventually(lambda: metric(cluster, "tally_replica_differing_keys", shard=shard, node=replica.name) == 2)
    copied = Intervention.objects.filter(shard=shard, node=replica.name, by=healing.BY, reason__contains=counter)
    assert (
        f"it differed in 2 rounds: {counter} is 8 instead of 7; {item} {user} is "
        in eventually(copied.first, 60).reason
    )
    # Healing asks for a round by itself when the replica is back.
    eventually(lambda: client.get(f"/v1/shards/{shard}/digest").json()["equal"] is True, 90)
    eventually(lambda: metric(cluster, "tally_replica_differing_keys", shard=shard, node=replica.name) == 0)
    cluster.command("reconcile", "--shard", str(shard))


def test_a_change_by_hand_is_found_within_one_round(cluster: Cluster, client: httpx.Client, counter: str) -> None:
    """On the primary it reaches the replica as well; the slot changed without a newer version."""
    shard = shard_of(counter)
    digest_of(client, shard)
    assert digest_of(client, shard)["altered_slots"] == []
    redis.cache().delete(f"c:{counter}")
    altered = metric(cluster, "tally_shard_altered_slots_total", shard=shard)
    by_hand(counter, 1000)
    found = digest_of(client, shard)
    assert (found["equal"], found["altered_slots"]) == (False, [slot_of(counter)])
    assert metric(cluster, "tally_shard_altered_slots_total", shard=shard) == altered + 1
    assert digest_of(client, shard)["altered_slots"] == []


def test_cached_values_are_repaired(cluster: Cluster, client: httpx.Client, key: str) -> None:
    keys = {kind: f"{key}:{kind}" for kind in ("right", "value", "version", "stale", "garbage", "never")}
    for kind, one in keys.items():
        if kind != "never":
            wait_applied(client, one, 7)
    _, version = cache.get_many([keys["right"]])[keys["right"]]
    entries = {
        "value": b"8 %d 0" % cache.get_many([keys["value"]])[keys["value"]][1],
        "version": b"7 %d 0" % (version + 10**15),
        "stale": b"6 1 0",
        "garbage": b"seven",
        "never": b"1 1 0",
    }
    for kind, entry in entries.items():
        redis.cache().set(f"c:{keys[kind]}", entry)

    reports = rounds.run([0, 1])
    wrong = {one for report in reports for one in report.cache.keys}
    assert wrong == {keys[kind] for kind in ("value", "version", "garbage", "never")}
    assert sum(report.cache.wrong for report in reports) == 4
    assert sum(report.cache.stale for report in reports) == 1
    assert not any(report.cache.detail for report in reports)
    assert [client.get(f"/v1/counters/{one}").json()["value"] for one in keys.values()] == [7, 7, 7, 7, 7, 0]
    assert sum(report.cache.wrong for report in rounds.run([0, 1])) == 0


def test_garbage_in_the_cache_is_no_answer(client: httpx.Client, counter: str) -> None:
    redis.cache().set(f"c:{counter}", b"seven")
    read = client.get(f"/v1/counters/{counter}")
    assert read.status_code == 200
    assert read.json()["source"] == "replica"
    eventually(lambda: client.get(f"/v1/counters/{counter}").json()["value"] == 7)


@contextmanager
def paused(replica: Replica) -> Iterator[Callable[[], object]]:
    """A replica that gets everything and replays nothing, at most until what this gives is called (Patroni ends
    PostgreSQL's own pause)."""
    postmaster = psutil.Process(int((replica.data / "postmaster.pid").read_text().split()[0]))
    (startup,) = (child for child in postmaster.children() if "startup" in " ".join(child.cmdline()))
    startup.suspend()
    try:
        yield startup.resume
    finally:
        startup.resume()


def test_a_replica_that_does_not_come_along_is_not_called_different(
    cluster: Cluster, client: httpx.Client, counter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(cluster, shard_of(counter))
    monkeypatch.setattr(settings.TALLY, "reconcile_seconds", 1.0)
    with paused(replica):
        wait_applied(client, counter)
        (one,) = compare(replica.shard).comparisons
    assert one.equal is None
    assert one.detail.startswith(f"lane {topology.reload().lane_of(counter).number}: ")
    assert "version" in one.detail
    monkeypatch.undo()
    (one,) = compare(replica.shard).comparisons
    assert one.equal is True


def test_a_change_by_hand_between_the_snapshots_is_no_difference(
    cluster: Cluster, counter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replica is shown before the change, the primary after it: the second look finds them equal."""
    replica = Replica(cluster, shard_of(counter))
    with paused(replica) as resume:
        by_hand(counter, 70)
        resuming = threading.Timer(1.0, resume)
        resuming.start()
        done = compare(replica.shard)
        resuming.join()
    (one,) = done.comparisons
    assert (one.equal, one.detail, one.differing) == (True, "", 0)


def test_another_number_of_lanes_than_the_primary_is_no_comparison(cluster: Cluster, counter: str) -> None:
    """The replica has not heard yet that the shard has other lanes."""
    replica = Replica(cluster, shard_of(counter))
    lanes = topology.reload().lane_count
    with databases.connect(databases.primary(replica.shard), autocommit=True) as conn, paused(replica):
        conn.execute(MORE_LANES)
        try:
            (one,) = compare(replica.shard).comparisons
        finally:
            conn.execute(FEWER_LANES, (lanes,))
    assert one.equal is None
    assert "lanes" in one.detail
    eventually(lambda: compare(replica.shard).equal)


def test_rounds_do_not_run_beside_each_other(cluster: Cluster) -> None:
    with databases.connect(databases.primary(0), autocommit=True) as conn:
        conn.execute(digests.LOCK, (digests.LOCK_ID,))
        with pytest.raises(digests.Busy):
            digests.compare(0)
    eventually(lambda: compare(0).equal)


def test_who_may_ask_and_for_what(cluster: Cluster, client: httpx.Client) -> None:
    writer = cluster.make_key("write")
    for key in ("", writer):
        with cluster.client(key) as other:
            assert other.get("/v1/shards/0/digest").status_code == (403 if key else 401)
    for shard in ("2", "x", "-1", "1e0"):
        answer = client.get(f"/v1/shards/{shard}/digest")
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:tally:problem:unknown-shard")
    answer = client.get("/v1/shards/0/digest", params={"wait": "soon"})
    assert answer.json()["errors"][0]["field"] == "wait"


def test_the_last_result_is_kept_until_it_is_not(client: httpx.Client) -> None:
    fresh = digest_of(client, 1)
    assert client.get("/v1/shards/1/digest").json() == fresh
    redis.cache().delete("reconciliation:1")
    answer = client.get("/v1/shards/1/digest")
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    eventually(lambda: client.get("/v1/shards/1/digest").status_code == 200)


def test_the_command_for_programs(cluster: Cluster) -> None:
    with suppress(SystemExit):
        cluster.command("reconcile")  # mends what other tests left
    done = cluster.manage("reconcile", "--json")
    assert [(one["shard"], one["equal"]) for one in json.loads(done.stdout)] == [(0, True), (1, True)]
    with pytest.raises(CommandError, match="there is no shard 7"):
        cluster.command("reconcile", "--shard", "7")


def test_the_admin_compares_and_shows(
    root: Browser, browse: Callable[..., Browser], client: httpx.Client, counter: str
) -> None:
    shard = shard_of(counter)
    digest_of(client, shard)
    by_hand(counter, 99)
    page = act(root, PAGE, "compare", str(shard))
    assert "Compared: 1." in page.text
    assert field(root.get(PAGE, params={"shard": shard}), "equal") == ["no"]
    assert str(slot_of(counter)) in field(root.get(PAGE, params={"shard": shard}), "replicas")[0]
    assert "Compared." in history("reconciliation", str(shard))
    looker = browse("view_reconciliation")
    assert "Compare now" not in looker.get(PAGE).text
    assert act(looker, PAGE, "compare", "0").status_code == 403
    assert browse("view_counter").get(PAGE).status_code == 403
    assert value_of(client, counter) == 99
