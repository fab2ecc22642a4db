"""Likes in the shards: the count of an item is the number of its likers, in both copies, whatever comes late or twice."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from counters.apply import partitions
from counters.batch import Events, Increments
from counters.intake import dispatch
from counters.intake.admission import Split
from counters.intake.set_aside import SetAsideBatches
from counters.intake.writes import Write, without
from counters.reading import write_status
from counters.write_id import WriteId
from likes import applying, reading, upkeep, writes
from likes.events import NOW, Event
from likes.names import count_key, liker_key
from sharding import databases, topology
from sharding.lanes import EXCESS, FRESH, STALE, Lane
from tests.support.cluster import Cluster, eventually, value_of
from tests.support.journal import lane_of, put_in_journal
from tests.support.likes import SHARDS, Model, drained, found, submit
from tests.support.shards import rows

pytestmark = pytest.mark.usefixtures("cluster")
BASE = 1_700_000_000_000_000  # microseconds: before every version of today


def post() -> str:
    """An item that no other test uses."""
    return f"post/{uuid4().hex}"


names = st.sampled_from(["a", "b", "c"])
an_event = st.builds(
    Event,
    names,
    names,
    st.booleans(),
    st.one_of(st.just(NOW), st.integers(0, 9).map(lambda n: BASE + n)),
    st.sampled_from([b"", b"", *(bytes([n]) * 16 for n in range(5)), "gelb-ü".encode()]),
)
# A flush: events of each of its writes, the queue of each half, and whether it is sent again later under another id.
a_flush = st.tuples(
    st.lists(st.lists(an_event, min_size=1, max_size=6), min_size=1, max_size=3),
    st.lists(st.sampled_from([FRESH, FRESH, EXCESS, STALE]), min_size=2, max_size=2),
    st.booleans(),
)


@settings(
    max_examples=8,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink an example would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(a_flush, min_size=1, max_size=12), st.integers(0, 2**32))
def test_both_copies_and_the_counts_are_those_of_a_simple_model(flushes: list[Any], seed: int) -> None:
    """Repeats, equal timestamps, known ids with other timestamps, unlikes, acknowledgements that were lost, and halves
    that are spilled."""
    own, model, chance = uuid4().hex, Model(), random.Random(seed)
    sent = [*flushes, *(flush for flush in flushes if flush[2])]
    chance.shuffle(sent)
    for events, queues, _ in sent:
        own_events = [
            [one._replace(item=f"post/{own}{one.item}", user=own + one.user) for one in some] for some in events
        ]
        queue = dict(zip(["post", "user"], queues, strict=True))
        by_lane = {lane: queue[chance.choice(["post", "user"])] for lane in topology.current().lanes}
        position = submit(*map(writes.write, own_events), place=lambda lane: lane.of(by_lane[lane]))  # noqa: B023
        for index, some in enumerate(own_events):
            model.take(some, position + index)
    drained()
    items = {f"post/{own}{one}" for one in "abc"}
    in_shards = found(items)
    in_shards.check(items)
    assert in_shards.by_item == model.states


def result(write: Write, id: UUID, index: int) -> tuple[int | None, bool]:
    """The count and whether the event changed it, of an awaited write."""
    outcome = write_status.wait(WriteId(id, index, tuple(write.operations)), 30)
    assert outcome is not None
    assert outcome.status == "applied"
    return outcome.value, outcome.changed


def test_an_awaited_like_tells_the_count_and_whether_it_changed_it() -> None:
    """Also several of one transaction, each as if it were alone."""
    item, first, second = post(), uuid7(), uuid7()
    events = [
        Event(item, user, liked) for user, liked in (("u", True), ("u", True), ("v", True), ("u", False), ("w", False))
    ]
    flush = [writes.awaited(event) for event in events]
    submit(*flush, id=first, reply_to="nobody")
    results = [result(write, first, index) for index, write in enumerate(flush)]
    assert results == [(1, True), (1, False), (2, True), (1, True), (1, False)]
    ((version,),) = rows(lane_of(count_key(item)).shard, "SELECT version FROM counter WHERE key = %s", count_key(item))
    again = writes.awaited(Event(item, "v", liked=True))
    submit(again, id=second, reply_to="nobody")
    assert result(again, second, 0) == (1, False)
    query = "SELECT value, version FROM counter WHERE key = %s"
    assert rows(lane_of(count_key(item)).shard, query, count_key(item)) == [(1, version)], "nothing was written"


def test_a_write_that_is_refused_in_one_lane_has_neither_half_in_another() -> None:
    """Too hot an item is refused, another one is spilled, the rest goes the usual way."""
    cool, warm, hot = post(), post(), post()
    whole = writes.write([Event(item, user, liked=True) for item in (cool, warm, hot) for user in "abc"])
    assert whole.counts == {count_key(item): 3 for item in (cool, warm, hot)}
    left, shed = without(whole, Split({count_key(warm)}, {count_key(hot)}, {}))
    assert shed.refused == {"key-rate": (count_key(hot),)}
    assert shed.excess == (count_key(warm),)
    assert sum(left.increments.values()) == 12
    submit(left)
    drained()
    in_shards = found([cool, warm, hot])
    in_shards.check([cool, warm, hot])
    assert in_shards.counts == {cool: 3, warm: 3}


def test_a_half_that_comes_to_a_wrong_lane_is_forwarded_as_it_was() -> None:
    """Its moment stays that of its twin, which went the right way: not that of its new place in the journal."""
    item = post()
    count = lane_of(count_key(item))
    user = next(str(n) for n in range(999) if lane_of(liker_key(str(n))) != count)
    submit(
        writes.write([Event(item, user, liked=True)]),
        place=lambda lane: Lane(1 - lane.shard, lane.number) if lane == count else lane,
    )
    drained()
    in_shards = found([item])
    in_shards.check([item])
    assert in_shards.counts == {item: 1}


def test_events_of_an_unknown_kind_are_set_aside_and_delay_nothing() -> None:
    item = post()
    lane = lane_of(count_key(item))
    id, _ = put_in_journal(lane, Events("poll", [count_key(item)], ["/voters/u"], []))
    dispatch.send(lane)
    try:
        submit(writes.write([Event(item, "u", liked=True)]))
        eventually(lambda: id in SetAsideBatches(lane).ids())
        assert "'poll'" in SetAsideBatches(lane).heads([id])[0].reason
        drained()
        assert found([item]).counts == {item: 1}
    finally:
        SetAsideBatches(lane).discard(id)


def test_events_that_no_version_can_apply_are_set_aside_alone() -> None:
    item = post()
    lane = lane_of(count_key(item))
    columns: list[list[Any]] = [[-1], [True], [b""]]
    id, _ = put_in_journal(lane, Events(writes.KIND, [count_key(item)], ["/likers/u"], columns), Increments([], []))
    dispatch.send(lane)
    submit(writes.write([Event(item, "u", liked=True)]))
    eventually(lambda: SetAsideBatches(lane).discard(id))
    drained()
    assert found([item]).counts == {item: 1}


def test_events_are_logged_once_by_the_version_of_their_write() -> None:
    item, id = post(), uuid7().bytes
    position = submit(writes.write([Event(item, "u", liked=True, at=BASE, id=id), Event(item, "v", liked=True)]))
    drained()
    repeat = Event(item, "u", liked=True, at=BASE, id=id)
    later = submit(writes.write([repeat]), writes.write([Event(item, "v", liked=False)]))
    drained()
    query = "SELECT position, at, user_id, liked, event FROM like_events WHERE item = %s ORDER BY position, user_id"
    assert rows(lane_of(count_key(item)).shard, query, item) == [
        (position, BASE, "u", True, id),
        (position, position, "v", True, b""),
        (later + 1, later + 1, "v", False, b""),
    ]


def test_an_unlike_goes_after_the_retention_and_a_partition_of_the_log_with_its_day() -> None:
    old, young, liked = post(), post(), post()
    submit(writes.write([Event(old, "u", liked=False), Event(young, "u", liked=False), Event(liked, "u", liked=True)]))
    drained()
    now = datetime.now(UTC)
    long_ago = now - timedelta(days=30)
    for shard in SHARDS:
        with databases.connect(databases.primary(shard), autocommit=True) as conn:
            for table in ("user_likes", "liked_items"):
                conn.execute(f"UPDATE {table} SET since = %s WHERE item = %s", (upkeep.microseconds(long_ago), old))
    assert sum(upkeep.purge(shard, now - timedelta(days=7)) for shard in SHARDS) == 2
    in_shards = found([old, young, liked])
    in_shards.check([old, young, liked])
    assert in_shards.by_item.keys() == {(young, "u"), (liked, "u")}
    partitions.create_ahead(1, now=long_ago)
    name = f"like_events_{long_ago:%Y%m%d}"
    assert rows(1, "SELECT 1 FROM pg_class WHERE relname = %s", name)
    assert name in partitions.drop_old(1, retention_days=7, oldest_entry=None)
    tables = "SELECT tableoid::regclass::text FROM like_events WHERE item = %s"
    assert rows(lane_of(count_key(liked)).shard, tables, liked) == [(f"like_events_{now:%Y%m%d}",)]


def test_no_call_on_counters_names_or_lists_a_count_of_likes(client: httpx.Client, key: str) -> None:
    item = post()
    submit(writes.write([Event(item, "u", liked=True)]))
    drained()
    name = count_key(item)
    quoted = name.replace("/", "%2F")
    calls = [
        client.get(f"/v1/counters/{quoted}"),
        client.get("/v1/counters", params={"key": name}),
        client.get("/v1/counters", params={"prefix": "/likes/"}),
        client.get("/v1/counters", params={"prefix": "/"}),
        client.put(f"/v1/counters/{quoted}", json={"value": 7}),
        client.delete(f"/v1/counters/{quoted}"),
        client.post(f"/v1/counters/{quoted}/increments", json={"delta": 1}),
        client.post("/v1/increments", json={"increments": [{"key": name, "delta": 1}]}),
        client.post("/v1/increments", json={"keys": [name], "deltas": [1]}),
        client.post(
            "/v1/increments",
            content=f'{{"key": "{name}", "delta": 1}}'.encode(),
            headers={"Content-Type": "application/x-ndjson"},
        ),
        client.post(
            "/v1/increments", content=_arrow(name), headers={"Content-Type": "application/vnd.apache.arrow.stream"}
        ),
    ]
    assert [one.status_code for one in calls] == [400] * len(calls), [one.text for one in calls]
    below, above = "-below", f"{key}:above"  # a slash sorts between them
    client.post("/v1/increments", json={"keys": [below, above], "deltas": [1, 1]}).raise_for_status()
    eventually(lambda: value_of(client, below) and value_of(client, above))
    listed: list[str] = []
    page: dict[str, Any] = {"next": ""}
    while page["next"] is not None:
        asked = {"limit": "500", "consistency": "primary"} | ({"cursor": page["next"]} if page["next"] else {})
        page = client.get("/v1/counters", params=asked).raise_for_status().json()
        listed += [one["key"] for one in page["results"]]
    assert {below, above} <= set(listed)
    assert listed == sorted(listed)
    assert not [one for one in listed if "/" in one]
    assert found([item]).counts == {item: 1}


def _arrow(key: str) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"key": [key], "delta": pyarrow.array([1], pyarrow.int64())})
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


@pytest.mark.parametrize(("query", "own"), [(reading.LIKERS, "post/1"), (reading.LIKED, "u")])
def test_a_page_of_a_list_is_a_range_of_an_index(query: str, own: str) -> None:
    arguments = {"own": own, "slot": 5, "at": BASE, "name": "v", "limit": 10}
    with databases.connect(databases.primary(0)) as conn:
        conn.execute("SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off")
        plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {query}", arguments).fetchall())
    assert "Sort" not in plan, plan
    assert re.search(r"Index Cond: .*COALESCE\(since, at\) <= ", plan), plan


@pytest.mark.parametrize("there", [0, 20_000])
@pytest.mark.parametrize(("read", "table"), [("read_likes", "user_likes"), ("read_liked", "liked_items")])
def test_a_row_that_a_window_meets_is_one_probe_of_the_primary_key(read: str, table: str, there: int) -> None:
    """The planner would read a small table as a whole for each row that is looked for, and a larger one once for a hash."""
    wanted = [f"n{n}" for n in range(10_000)]
    with databases.connect(databases.primary(0)) as conn:
        conn.execute(f"CREATE TEMPORARY TABLE {table} (LIKE {table} INCLUDING ALL) ON COMMIT DROP")
        conn.execute(
            f"INSERT INTO {table} (item, user_id, slot, at, liked, event) "
            "SELECT 'n' || n, 'n' || n, mod(n, 1024), n, true, '' FROM generate_series(1, %s) AS n",
            (there,),
        )
        conn.execute(f"ANALYZE {table}")
        conn.execute(applying.PROBES)
        arguments = {"items": wanted, "users": wanted, "slots": [5] * len(wanted)}
        plan = "\n".join(row[0] for row in conn.execute(f"EXPLAIN {applying._SQL[read]}", arguments).fetchall())
    assert re.search(r"Index Cond: .*item = .*user_id = |Index Cond: .*user_id = .*item = ", plan), plan
    assert "Nested Loop" in plan, plan
    assert not re.search(r"Hash|Merge|Seq Scan", plan), plan


def test_the_age_of_what_reaches_the_copy_by_user_is_a_metric(cluster: Cluster) -> None:
    item, shard = post(), 1
    user = next(str(n) for n in range(999) if lane_of(liker_key(str(n))).shard == shard)

    def observed() -> float:
        name = "tally_likes_copy_lag_seconds_count"
        pattern = rf'{name}{{shard="{shard}"}} (\S+)'
        texts = [cluster.metrics(worker, name) for worker in cluster.processes("worker", shard)]
        return sum(float(count) for text in texts for count in re.findall(pattern, text))

    before = observed()
    submit(writes.write([Event(item, user, liked=True)]))
    eventually(lambda: observed() > before)


def test_a_replay_of_the_log_brings_back_what_was_lost_and_changes_nothing_else(cluster: Cluster) -> None:
    """In chunks that end within a write; also from a position on, as a replay that was stopped says."""
    lost, kept, id = post(), post(), uuid7().bytes
    users = [f"u{n}" for n in range(7)]
    first = submit(writes.write([Event(item, user, liked=True, id=id) for item in (lost, kept) for user in users]))
    second = submit(writes.write([Event(item, "u0", liked=False) for item in (lost, kept)]))
    drained()
    before = found([lost, kept])
    before.check([lost, kept])
    assert before.counts == {lost: 6, kept: 6}
    for shard in SHARDS:
        with databases.connect(databases.primary(shard), autocommit=True) as conn:
            conn.execute("DELETE FROM user_likes WHERE item = %s", (lost,))
            conn.execute("DELETE FROM liked_items WHERE item = %s", (lost,))
            conn.execute("UPDATE counter SET value = 0 WHERE key = %s", (count_key(lost),))
    said = cluster.command("likes", "replay", "--since", str(second), "--chunk", "5")
    assert re.fullmatch(r"[\d,]+ events written again and applied", said)
    assert found([lost]).by_item == {(lost, "u0"): before.by_item[lost, "u0"]}
    cluster.command("likes", "replay", "--since", str(first), "--chunk", "5")
    assert found([lost, kept]) == before
