"""Limits of a counter and of a lane, and the spill queues: what is too much or too old is counted later, exactly once."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from django.conf import settings
from django.test import override_settings
from uuid_utils.compat import uuid7

from benchmarks.chaos import verdict as verdicts
from benchmarks.chaos.client import Client
from benchmarks.chaos.expected_counts import MAX_VALUE, Owned
from benchmarks.chaos.load import Load
from benchmarks.chaos.mix import Names
from benchmarks.chaos.subject import Subject
from benchmarks.chaos.trial import Trial
from benchmarks.chaos.verdict import Verdict
from benchmarks.chaos.wire import Answer, NoAnswer, Wire
from counters import batch, service
from counters.apply import partitions, restored, transaction
from counters.apply.loading import Loader, Window
from counters.apply.report import Report
from counters.apply.worker import Worker
from counters.batch import Increments, Step
from counters.imports.importing import Import
from counters.imports.lines import Chunk
from counters.intake import dispatch, journal
from counters.intake.admission import Limits, Seen
from counters.intake.append import Flush, Over, Payload, append
from counters.intake.confirmed import Confirmed
from counters.intake.intake import limits
from counters.intake.journal import Journal
from counters.intake.lease import WakeUps
from counters.intake.set_aside import SetAsideBatches
from counters.write_id import WriteId
from runtime import redis
from sharding import databases, topology
from sharding.lanes import EXCESS, SPILL, STALE, Lane
from tests.support.cluster import Cluster, eventually, frozen, value_of
from tests.support.journal import is_drained, lane_of, put_in_journal
from tests.support.limited import api_processes
from tests.support.shards import key_on, rows

RATE, ROOM, BACKLOG = 50, 100, 300
LIMITS = {
    "TALLY_KEY_RATE": str(RATE),
    "TALLY_KEY_RATE_WINDOW_SECONDS": "3600",  # nothing leaves the window while a test runs
    "TALLY_EXCESS_INCREMENTS": str(ROOM),
    "TALLY_BACKLOG_INCREMENTS": str(BACKLOG),
}
LOW = {"Priority": "u=7"}


@pytest.fixture(scope="module")
def limited(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[httpx.Client]]:
    """Clients of two API processes with small limits."""
    with api_processes(cluster, 2, LIMITS, tmp_path_factory.mktemp("limited")) as clients:
        yield clients


@pytest.fixture
def paused(cluster: Cluster, limited: list[httpx.Client]) -> Iterator[Any]:
    """The spill worker stands still until the test calls this, or ends; what others have spilled is applied before."""
    eventually(lambda: not any(journal.spilled(shard) for shard in (0, 1)))
    freeze = frozen(*cluster.processes("spill-worker"))
    freeze.__enter__()
    resumed: list[bool] = []

    def resume() -> None:
        if not resumed:
            resumed.append(True)
            freeze.__exit__(None, None, None)

    yield resume
    resume()
    eventually(lambda: not any(journal.spilled(shard) for shard in (0, 1)))


def increment(client: httpx.Client, key: str, delta: int = 1, **options: Any) -> httpx.Response:
    return client.post(f"/v1/counters/{key}/increments", json={"delta": delta}, **options)


def status_of(client: httpx.Client, write: str) -> str:
    status: str = client.get(f"/v1/writes/{write}").json()["status"]
    return status


def other_lane(key: str) -> str:
    """A key of another lane."""
    return next(one for n in range(99) if lane_of(one := f"{key}:other:{n}") != lane_of(key))


@pytest.mark.limit("TALLY_KEY_RATE", "TALLY_EXCESS_INCREMENTS")
def test_a_hot_key_is_queued_then_spilled_then_refused_and_the_count_is_exact(
    cluster: Cluster, client: httpx.Client, limited: list[httpx.Client], paused: Any, key: str
) -> None:
    """By all processes together, whichever of them a request reaches."""
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda n: increment(limited[n % 2], key), range(200)))
    said = Counter(one.json()["status"] if one.status_code == 202 else one.status_code for one in answers)
    assert said == {"queued": RATE, "excess": ROOM, 429: 50}
    refused = next(one for one in answers if one.status_code == 429)
    assert refused.json()["type"] == "urn:tally:problem:too-many-increments"
    assert refused.json()["errors"][0]["field"] == key
    assert refused.json()["errors"][0]["rule"].startswith("key-rate: ")
    assert int(refused.headers["Retry-After"]) > 0
    assert increment(limited[0], f"{key}:calm").json()["status"] == "queued", "other keys never notice"
    spilled = next(one.json() for one in answers if one.status_code == 202 and one.json()["status"] == "excess")
    assert spilled["queue"] == "spill"
    assert status_of(client, spilled["id"]) == "excess"
    shard = lane_of(key).shard
    seen = client.get("/v1/shards").json()["results"][shard]
    assert (seen["excess"]["increments"], seen["stale"]["increments"]) == (ROOM, 0)
    told = json.loads(cluster.command("journal", "--json", check=False))[shard]["excess"]
    assert told["increments"] == ROOM
    eventually(lambda: value_of(client, key) == RATE)
    read = client.get(f"/v1/counters/{key}", params={"after": spilled["id"], "wait": 0.1})
    assert (read.status_code, read.json()["status"]) == (202, "excess")
    paused()
    read = client.get(f"/v1/counters/{key}", params={"after": spilled["id"]})
    assert read.status_code == 200
    eventually(lambda: value_of(client, key) == RATE + ROOM)
    assert {status_of(client, one.json()["id"]) for one in answers if one.status_code == 202} == {"applied"}
    assert increment(limited[1], key).json()["status"] == "excess", "there is room again, and the key is still hot"
    eventually(lambda: value_of(client, key) == RATE + ROOM + 1)


def test_a_bulk_write_is_accepted_in_part_and_its_repeat_is_answered_the_same(
    client: httpx.Client, limited: list[httpx.Client], paused: Any, key: str
) -> None:
    hot, hotter, calm = f"{key}:hot", f"{key}:hotter", f"{key}:calm"
    increments = [{"key": hot, "delta": 2}] * 60 + [{"key": hotter, "delta": 1}] * 120 + [{"key": calm, "delta": 5}] * 3
    headers = {"Idempotency-Key": key}
    first = limited[0].post("/v1/increments", json={"increments": increments}, headers=headers)
    assert first.status_code == 202
    assert {name: first.json().get(name) for name in ("accepted", "keys", "excess", "refused")} == {
        "accepted": 63,
        "keys": 2,
        "excess": [hot],
        "refused": [{"key": hotter, "rule": "key-rate"}],
    }
    again = limited[1].post("/v1/increments", json={"increments": increments}, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json())
    write = first.json()["id"]
    eventually(lambda: status_of(client, write) == "excess")
    paused()
    eventually(lambda: status_of(client, write) == "applied")
    assert [value_of(client, one) for one in (hot, hotter, calm)] == [120, 0, 15]
    again = limited[1].post("/v1/increments", json={"increments": increments}, headers=headers)
    assert (again.status_code, again.json()) == (202, first.json()), "from the shard's record"
    only = limited[0].post("/v1/increments", json={"keys": [hotter] * 160, "deltas": [1] * 160})
    assert only.status_code == 429
    assert [one["field"] for one in only.json()["errors"]] == [hotter]


@pytest.mark.parametrize("way", ["fast path", "view"])
def test_low_priority_goes_to_the_excess_queue(
    client: httpx.Client, limited: list[httpx.Client], paused: Any, key: str, way: str
) -> None:
    headers = LOW | ({"Idempotency-Key": key} if way == "view" else {})
    low = increment(limited[0], key, headers=headers)
    assert (low.status_code, low.json()["status"], low.json()["queue"]) == (202, "excess", "spill")
    assert (
        increment(limited[0], key, headers=headers | {"Priority": "u=5"} | _own(headers)).json()["status"] == "queued"
    )
    waited = increment(limited[0], key, headers=LOW, params={"wait": 10})
    assert (waited.status_code, waited.json()["value"]) == (200, 2), "nobody waits for a spilled increment"
    body = {"keys": [key, f"{key}:b"], "deltas": [10, 10]}
    many = limited[0].post("/v1/increments", json=body, headers=headers | _own(headers)).json()
    assert (many["accepted"], many["excess"]) == (2, [key, f"{key}:b"])
    assert value_of(client, key) == 2
    paused()
    eventually(lambda: value_of(client, key) == 13)
    too_many = {"keys": [key] * (ROOM + 1), "deltas": [1] * (ROOM + 1)}
    refused = limited[0].post("/v1/increments", json=too_many, headers=headers | _own(headers))
    assert refused.status_code == 429
    assert refused.json()["errors"][0]["rule"].startswith("excess: ")


def _own(headers: dict[str, str]) -> dict[str, str]:
    return {"Idempotency-Key": uuid4().hex} if "Idempotency-Key" in headers else {}


def test_a_set_voids_what_was_spilled_before_it_and_nothing_else(
    client: httpx.Client, limited: list[httpx.Client], paused: Any, key: str
) -> None:
    increment(limited[0], key, 5, headers=LOW).raise_for_status()
    assert limited[0].put(f"/v1/counters/{key}", json={"value": 100}).status_code == 200
    last = increment(limited[0], key, 3, headers=LOW).json()["id"]
    assert value_of(client, key) == 100
    paused()
    eventually(lambda: status_of(client, last) == "applied")
    assert value_of(client, key) == 103


def test_what_is_spilled_does_not_overtake_a_set_that_was_accepted_before(
    cluster: Cluster, client: httpx.Client, limited: list[httpx.Client], key: str
) -> None:
    """The set would replace a value that has the increment already."""
    lane = lane_of(key)
    eventually(lambda: is_drained(lane.shard))
    with frozen(*cluster.processes("worker", lane.shard)):
        put_in_journal(lane, Step(key, "set", 100))
        spilled = increment(limited[0], key, 3, headers=LOW).json()["id"]
        free = increment(limited[0], other_lane(key), 3, headers=LOW).json()["id"]
        eventually(lambda: status_of(client, free) == "applied")  # the spill worker works
        time.sleep(1.5)  # more than a shift
        assert status_of(client, spilled) == "excess"
    dispatch.send(lane)
    eventually(lambda: status_of(client, spilled) == "applied")
    assert value_of(client, key) == 103


@pytest.mark.limit("TALLY_BACKLOG_INCREMENTS", "TALLY_BACKLOG_BYTES")
def test_a_full_backlog_refuses_the_keys_of_its_lane_alone(
    cluster: Cluster, client: httpx.Client, limited: list[httpx.Client], key: str
) -> None:
    lane, other = lane_of(key), other_lane(key)
    eventually(lambda: is_drained(lane.shard))
    with frozen(*cluster.processes("worker", lane.shard)):
        for n in range(BACKLOG // 30):
            keys = [f"{key}:{n}:{m}" for m in range(999) if lane_of(f"{key}:{n}:{m}") == lane][:30]
            assert limited[n % 2].post("/v1/increments", json={"keys": keys, "deltas": [1] * 30}).status_code == 202
        refused = increment(limited[0], key)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:tally:problem:backlog-full")
        assert refused.json()["errors"][0]["field"] == key
        assert "Retry-After" in refused.headers
        assert limited[1].put(f"/v1/counters/{key}", json={"value": 1}).status_code == 429
        assert increment(limited[0], other).status_code == 202
        both = limited[1].post("/v1/increments", json={"keys": [key, other, key], "deltas": [1, 1, 1]}).json()
        assert (both["accepted"], both["refused"]) == (1, [{"key": key, "rule": "backlog"}])
        size = journal.backlog(lane.shard).increments
        assert BACKLOG <= size <= BACKLOG + 3, "what a lane has of a bulk write is estimated"
        for most, refuses in ((1, True), (2**30, False)):
            own = settings.TALLY.model_copy(update={"backlog_bytes": most, "backlog_increments": 0})
            with override_settings(TALLY=own):
                assert is_refused(lane, key, limits()) == refuses
    eventually(lambda: is_drained(lane.shard))
    assert journal.backlog(lane.shard) == (0, 0)
    assert increment(limited[0], key, params={"wait": 10}).json()["value"] == 1
    assert value_of(client, other) == 2


def is_refused(lane: Lane, key: str, limits: Limits) -> bool:
    """Whether an increment of 0 is refused under these limits, as the lane is full. If not, it is appended."""
    seen = tried(lane, key, limits, {})
    return seen is not None and seen.full == {lane}


def tried(lane: Lane, key: str, limits: Limits, counted: Mapping[str, int]) -> Seen | None:
    """What an increment of 0 meets that is refused under these limits. If it is not, it is appended."""
    id = uuid7()
    data = batch.encode(id, [(0, batch.encode_segment(Increments([key], [0])))], [], None)
    payloads = {lane: Payload(data, increments=1)}
    try:
        append(Flush(id, payloads, 1, {}, topology.current().version, counted, limits))
    except Over as over:
        return over.seen
    return None


@pytest.mark.limit("TALLY_KEY_RATE_WINDOW_SECONDS")
def test_what_a_counter_had_in_the_window_before_counts_by_the_share_that_is_still_covered(
    cluster: Cluster, key: str
) -> None:
    """No second burst at an edge. Since 1970, there have been one and a half of these windows."""
    window, lane = journal.now() / 1e6 / 1.5, lane_of(key)
    limits = Limits(rate=10, window=window)
    current, before = journal.rates_keys(window)

    def used(count: int) -> int | None:
        """What the counter is found to have, if it may not have so many more."""
        seen = tried(lane, key, limits, {key: count})
        return seen.used[key] if seen else None

    try:
        redis.journal().hset(current, mapping={"": 0, key: 10})
        assert used(6) == 5
        assert used(5) is None
        assert used(1) == 10
    finally:
        redis.journal().delete(current, before)
        dispatch.send(lane)


@pytest.mark.parametrize("way", ["fast path", "view"])
def test_a_write_meets_the_quota_of_its_caller_before_the_limits_of_its_counters(
    cluster: Cluster, limited: list[httpx.Client], key: str, way: str
) -> None:
    api_key = cluster.make_key("write")
    cluster.command("limits", "--key", api_key.partition(".")[0], "--increments", "300")
    headers = {"Authorization": f"Api-Key {api_key}"}

    def quota() -> str:
        return limited[0].get("/v1/writes/x", headers=headers).headers["RateLimit-Policy"]

    def send(names: list[str]) -> httpx.Response:
        body = {"keys": names, "deltas": [1] * len(names)}
        own = {"Idempotency-Key": uuid4().hex} if way == "view" else {}
        return limited[0].post("/v1/increments", json=body, headers=headers | own)

    eventually(lambda: '"increments";q=300;' in quota(), 15)
    answers = [send([key] * 200), send([key] * 200), send([f"{key}:{n}" for n in range(100)])]
    assert [one.status_code for one in answers] == [429, 429, 202]
    refused, over, _ = (one.json() for one in answers)
    assert refused["type"] == "urn:tally:problem:too-many-increments"
    assert re.search(r'"increments";r=100;', answers[0].headers["RateLimit"]), "it has counted for its caller"
    assert over["type"] == "urn:tally:problem:quota-exceeded"
    assert over["violated-policies"] == ["increments"], "and nothing has asked for the rate of its counter"


# --- the expected counts of `make chaos` ---------------------------------------------------------------------------------


class Socket(Wire):
    """The wire of a client that asks an API process with small limits."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 10.0,
    ) -> Answer:
        try:
            got = self._client.request(method, path, content=body, headers=headers, timeout=timeout)
        except httpx.TransportError as error:
            raise NoAnswer(str(error)) from error
        return Answer(got.status_code, {name.lower(): value for name, value in got.headers.items()}, got.content)


def test_the_bench_accepts_that_a_set_voids_what_does_not_fit_and_nothing_else(
    cluster: Cluster, client: httpx.Client, limited: list[httpx.Client], paused: Any, key: str
) -> None:
    owner, edge = Client(f"{key}:owner", Socket(limited[0]), Random(1), spills=True), Owned(key)
    expected, load = owner.expected, Load.__new__(Load)
    load.clients, load.names = [owner], Names(key)

    def found() -> Verdict:
        verdict = Verdict()
        for check in (verdicts._rejections, verdicts._statuses):
            check(Subject(cluster.dir), load, Trial(0, 0, (0, 0), [], []), verdict)
        return verdict

    limited[0].post("/v1/increments", json={"keys": [key] * RATE, "deltas": [0] * RATE}).raise_for_status()
    for _ in range(2):
        owner.put(edge, MAX_VALUE - 10)
        owner.own_increment(edge, 20, wait=False)
    void, _ = expected.rejected
    assert expected.spilled == 2
    assert status_of(client, void) == "excess"
    paused()
    assert owner.settled(edge)
    assert (expected.complaints, found().findings) == ([], [])
    assert found().figures["writes rejected, as they had to be"] == 1
    assert found().figures["writes that would have been rejected, voided by a set"] == 1

    owner.put(edge, 100)
    owner.own_increment(edge, 5, wait=False)
    *_, entry = expected.entries
    assert owner.settled(edge)
    owner.put(edge, 200)
    expected.rejected[entry.id], expected.voidable[entry.id] = key, edge.version
    assert [entry.id.rpartition("-")[0] in one for one in found().findings] == [True, True]
    assert "must be rejected" in found().findings[1], "it was applied before the set"

    del expected.rejected[entry.id], expected.voidable[void]
    assert [void.rpartition("-")[0] in one for one in found().findings] == [True, True], "its owner has set nothing"


# --- stale: with workers of the test's own -----------------------------------------------------------------------------


@pytest.fixture
def lane(cluster: Cluster, paused: Any, key: str) -> Iterator[Lane]:
    """The lane of `key`; no worker of the cluster applies it."""
    lane = lane_of(key)
    eventually(lambda: is_drained(lane.shard))
    with frozen(*cluster.processes("worker", lane.shard)):
        yield lane
    put_in_journal(lane, Increments([key], [0]))
    dispatch.send(lane)
    paused()
    eventually(lambda: is_drained(lane.shard))


@pytest.fixture
def impatient() -> Iterator[float]:
    """A worker of this process finds increments stale that are older than these seconds."""
    before, settings.TALLY = settings.TALLY, settings.TALLY.model_copy(update={"stale_seconds": 0.2})
    yield 0.2
    settings.TALLY = before


def patient(settings: Any) -> None:
    """From now on nothing is too old."""
    settings.TALLY = settings.TALLY.model_copy(update={"stale_seconds": 0.0})


@contextmanager
def worker(lane: Lane) -> Iterator[Worker]:
    with closing(Worker(f"of a test {uuid4().hex[:6]}", [lane.shard], spills=True)) as made:
        yield made


def write_of(id: UUID, index: int, lane: Lane) -> str:
    return str(WriteId(id, index, (lane,)))


@pytest.mark.limit("TALLY_STALE_SECONDS")
def test_increments_that_are_too_old_move_to_the_stale_queue_and_count_once(
    client: httpx.Client, lane: Lane, impatient: float, key: str
) -> None:
    """What has a result is applied at once; a set voids what was accepted before it, also of its own batch."""
    other, third = [one for one in (f"{key}:{n}" for n in range(999)) if lane_of(one) == lane][:2]
    first, _ = put_in_journal(
        lane, Increments([key, other], [1, 10]), Step(key, "set", 100), Increments([key, third], [1000, 7])
    )
    put_in_journal(lane, Step(third, "increment", 1))  # nothing to defer
    second, _ = put_in_journal(lane, Increments([other], [20]))
    time.sleep(2 * impatient)
    with worker(lane) as mine:
        eventually(lambda: mine.apply(lane) and not Journal(lane).entries())  # moved once the replica has the commit
        patient(settings)
        young, _ = put_in_journal(lane, Increments([third], [500]))
        mine.apply(lane)
        stale = [entry.id for entry in Journal(lane.of(STALE)).entries()]
        assert stale == [first, second]
        assert [value_of(client, one) for one in (key, other, third)] == [100, 0, 501]
        statuses = [status_of(client, write_of(first, n, lane)) for n in range(3)]
        assert statuses == ["stale", "applied", "stale"]
        assert status_of(client, write_of(young, 0, lane)) == "applied"
        read = client.get(f"/v1/counters/{key}", params={"after": write_of(first, 2, lane), "wait": 0.1})
        assert (read.status_code, read.json()["status"]) == (202, "stale")
        mine.apply(lane.of(STALE))
    assert [value_of(client, one) for one in (key, other, third)] == [1100, 30, 508]
    assert {status_of(client, write_of(first, n, lane)) for n in range(3)} == {"applied"}
    assert rows(lane.shard, "SELECT lane, deferred IS NOT NULL FROM ledger WHERE id = %s ORDER BY lane", first) == [
        (lane.number, True),
        (lane.of(STALE).place, False),
    ]


def test_what_an_if_match_depends_on_is_not_deferred_unless_that_was_decided_before(
    client: httpx.Client, lane: Lane, impatient: float, key: str
) -> None:
    """A primary that was lost with its last commits may have answered the If-Match."""
    other, calm = [one for one in (f"{key}:{n}" for n in range(999)) if lane_of(one) == lane][:2]
    put_in_journal(lane, Increments([key], [1]))
    decided, _ = put_in_journal(lane, Increments([other], [1]))
    free, _ = put_in_journal(lane, Increments([calm], [1]))
    late, _ = put_in_journal(lane, Step(key, "set", 100, 0), Step(other, "set", 100, 0))
    Journal(lane).decide([decided.bytes])  # as a shift does before its commit, which was lost
    time.sleep(2 * impatient)
    with worker(lane) as mine:
        eventually(lambda: mine.apply(lane) and not Journal(lane).entries())
        patient(settings)
        assert [entry.id for entry in Journal(lane.of(STALE)).entries()] == [decided, free]
        assert not Journal(lane).decided(), "they have moved"
        assert [value_of(client, one) for one in (key, other, calm)] == [1, 100, 0]
        statuses = [client.get(f"/v1/writes/{write_of(late, n, lane)}").json() for n in (0, 1)]
        assert [one["status"] for one in statuses] == ["rejected", "applied"]
        eventually(lambda: mine.apply(lane.of(STALE)) and not Journal(lane.of(STALE)).entries())
    assert [value_of(client, one) for one in (key, other, calm)] == [1, 100, 1]


def test_a_worker_that_dies_between_commit_and_move_has_lost_nothing(
    client: httpx.Client, lane: Lane, impatient: float, key: str
) -> None:
    """The ledger decides: the next shift moves what the dead one deferred, and does not move what it applied."""
    deferred, position = put_in_journal(lane, Increments([key], [1]))
    applied, end = put_in_journal(lane, Increments([key], [10]))
    with (
        databases.connect(databases.primary(lane.shard), autocommit=True) as conn,
        closing(WakeUps(lane)) as wake_ups,
    ):
        loader = Loader(lane, wake_ups, Confirmed())
        window = loader.take(position - 1, 64).deferring(end)
        assert transaction.apply(conn, lane, window).deferred == {deferred.bytes}
        again = loader.take(position - 1, 64)  # another shift that read it before would defer nothing
        assert transaction.apply(conn, lane, again).deferred == {deferred.bytes}
        all_of_it = loader.take(position - 1, 64).deferring(end + 1)  # or everything
        assert transaction.apply(conn, lane, all_of_it).deferred == {deferred.bytes}
    assert value_of(client, key) == 10
    time.sleep(2 * impatient)
    with worker(lane) as mine:
        eventually(lambda: mine.apply(lane) and not Journal(lane).entries())
        assert [entry.id for entry in Journal(lane.of(STALE)).entries()] == [deferred]
        eventually(lambda: mine.apply(lane.of(STALE)) and not Journal(lane.of(STALE)).entries())
    assert value_of(client, key) == 11
    assert applied


def test_one_spill_transaction_changes_the_moment_that_a_cache_entry_is_compared_with(
    client: httpx.Client, lane: Lane, key: str
) -> None:
    """A read from a replica that lacks it must not be cached for long (`announce`)."""
    moment = "SELECT last_version + spilled, last_version FROM apply_state WHERE lane = %s"
    put_in_journal(lane, Increments([key], [1]))
    put_in_journal(lane.of(EXCESS), Increments([key], [1]))
    with worker(lane) as mine:
        eventually(lambda: mine.apply(lane) and not Journal(lane).entries())  # a frozen worker may have had its lease
        ((before, cursor),) = rows(lane.shard, moment, lane.number)
        eventually(lambda: mine.apply(lane.of(EXCESS)) and not Journal(lane.of(EXCESS)).entries())
        assert rows(lane.shard, moment, lane.number) == [(before + 1, cursor)]
    assert value_of(client, key) == 2


@pytest.mark.limit("TALLY_SPILL_SHARE")
def test_a_spill_queue_rests_for_its_share_while_its_shard_has_fresh_increments(lane: Lane, key: str) -> None:
    spilled, took = lane.of(EXCESS), 0.05
    assert not is_refused(lane, key, Limits())
    with worker(lane) as mine:
        shift = mine._shift(spilled, Report(*spilled))
        began = time.monotonic()
        shift._rest(Window(0, 0), took)
        assert time.monotonic() - began >= took * (1 / settings.TALLY.spill_share - 1) - 0.01
        eventually(lambda: mine.apply(lane) and not journal.backlog(lane.shard).increments)
        began = time.monotonic()
        shift._rest(Window(0, 0), 100 * took)  # which would be 45 s
        assert time.monotonic() - began < 20, "the shard is idle"


def test_the_ledger_keeps_what_a_spilled_batch_still_needs(cluster: Cluster, paused: Any, key: str) -> None:
    """A partition is dropped only when it is older than the oldest entry of the spill queues, too."""
    lane, long_ago = lane_of(key).of(STALE), datetime.now(UTC) - timedelta(days=settings.TALLY.retention_days + 3)
    name, id = f"ledger_{long_ago:%Y%m%d}", uuid4()
    with databases.connect(databases.primary(lane.shard), autocommit=True) as conn:
        partitions._create(conn, partitions.Table("ledger"), partitions._midnight(long_ago))
    try:
        redis.journal().zadd(Journal(lane).positions_key, {id.bytes: int(long_ago.timestamp() * 1e6)})
        assert name not in partitions.maintain(lane.shard)
    finally:
        Journal(lane).remove([id.bytes], [])
    assert name in partitions.maintain(lane.shard)


def test_a_restore_leaves_spill_queues_alone_but_for_what_is_older_than_the_ledger(
    client: httpx.Client, paused: Any, key: str
) -> None:
    """What is older may have been applied before the restore. It is set aside, and counted when an operator retries it."""
    spilled = [lane_of(key).of(queue) for queue in SPILL]
    beginning = partitions.oldest(spilled[0].shard)
    assert beginning
    old, young = {}, {}
    for lane, delta in zip(spilled, (1, 10), strict=True):
        young[lane], _ = put_in_journal(lane, Increments([key], [delta]), increments=1)
        old[lane], _ = put_in_journal(lane, Increments([key], [100 * delta]), increments=1)
        position = int((beginning - timedelta(hours=1)).timestamp() * 1e6)
        redis.journal().zadd(Journal(lane).positions_key, {old[lane].bytes: position})
    assert restored.settle().set_aside == 2
    assert restored.settle().set_aside == 0, "it is safe to repeat"
    for lane in spilled:
        assert [entry.id for entry in Journal(lane).entries()] == [young[lane]]
        assert SetAsideBatches(lane).ids() == [old[lane]]
        assert journal.backlog(lane.shard, lane.queue).increments == 1
    paused()
    for lane in spilled:
        dispatch.send(lane)
    eventually(lambda: value_of(client, key) == 11)
    for lane in spilled:
        SetAsideBatches(lane).retry(old[lane])
        dispatch.send(lane)
    eventually(lambda: value_of(client, key) == 1111)
    eventually(lambda: not journal.spilled(spilled[0].shard))
    assert all(journal.backlog(lane.shard, lane.queue) == (0, 0) for lane in spilled)


def test_an_import_waits_for_a_full_lane_and_its_repeat_counts_nothing(
    cluster: Cluster, client: httpx.Client, key: str
) -> None:
    """The rates of counters are for the API: an import is folded, and goes the usual way."""
    lane = lane_of(key)
    free = key_on(1 - lane.shard, key)
    eventually(lambda: not any(map(journal.occupied, (0, 1))))
    own = settings.TALLY.model_copy(update={"backlog_increments": 1, "key_rate": 1, "excess_increments": 0})

    def run() -> Import:
        done = Import(name=key, prefix="", wait=True, on_rejected=pytest.fail)
        done.take(Chunk(0, 1, folded={key: 30, free: 7}, increments=40, digest=b"of a test"))
        done.finish()
        return done

    with override_settings(TALLY=own), service.in_background(), ThreadPoolExecutor() as pool:
        with frozen(*cluster.processes("worker", lane.shard)):
            put_in_journal(lane, Increments([key], [1000]), increments=1)
            running = pool.submit(run)
            eventually(lambda: value_of(client, free) == 7)
            time.sleep(0.3)  # for another try
            assert not running.done()
        dispatch.send(lane)
        first = running.result(60)
        again = run()
    assert (first.repeated, again.repeated) == (0, 1)
    assert [value_of(client, one) for one in (key, free)] == [1030, 7]
