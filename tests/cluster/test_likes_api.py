"""Likes through the API: each user once, whatever is repeated, late or out of order; and what their lists and counts show."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pyarrow as pa
import pytest

from counters.api.media import ARROW, JSON, MSGPACK, NDJSON
from likes import recent, removals
from likes.events import Event
from likes.reading import Pair
from likes.recent import Entry, Recent
from runtime import redis
from runtime.event_loop import LoopThread
from runtime.redis import LoopConnection, cache_connection, pool_of
from runtime.resources import Resources
from tests.support.cluster import Cluster, eventually, frozen
from tests.support.http import assert_problem

WAIT = {"wait": 30}
TYPE = "test"


@pytest.fixture
def item() -> str:
    """An item that no other test uses."""
    return uuid4().hex


def like(client: httpx.Client, item: str, user: str, method: str = "PUT", **options: Any) -> dict[str, Any]:
    answer = client.request(method, f"/v1/likes/{TYPE}/{item}/users/{user}", **options)
    assert answer.status_code in (200, 202), answer.text
    found: dict[str, Any] = answer.json()
    return found


def read(client: httpx.Client, path: str, **params: Any) -> dict[str, Any]:
    answer = client.get(f"/v1/likes/{path}", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def send(client: httpx.Client, events: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    answer = client.post("/v1/likes", json={"events": events}, **options)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def applied(client: httpx.Client, write: dict[str, Any]) -> None:
    eventually(lambda: client.get(f"/v1/writes/{write['id']}").json()["status"] == "applied")


def event(item: str, user: str, action: str = "like", **more: Any) -> dict[str, Any]:
    return {"user_id": user, "item_type": TYPE, "item_id": item, "action": action, **more}


def users_of(client: httpx.Client, item: str) -> list[str]:
    return [one["user"] for one in read(client, f"{TYPE}/{item}/users", consistency="primary")["results"]]


@pytest.mark.smoke
def test_a_user_likes_an_item_once(client: httpx.Client, item: str) -> None:
    first = like(client, item, "ann", params=WAIT)
    named = {"type": TYPE, "item": item, "user": "ann", "liked": True, "status": "applied"}
    assert {name: first[name] for name in named} == named
    assert (first["changed"], first["count"]) == (True, 1)
    again = like(client, item, "ann", params=WAIT)
    assert (again["changed"], again["count"], again["version"]) == (False, 1, first["version"])
    assert like(client, item, "bob", params=WAIT)["count"] == 2
    gone = like(client, item, "ann", "DELETE", params=WAIT)
    assert (gone["liked"], gone["changed"], gone["count"]) == (False, True, 1)
    assert like(client, item, "ann", "DELETE", params=WAIT)["changed"] is False
    assert like(client, item, "nobody", "DELETE", params=WAIT)["count"] == 1
    assert users_of(client, item) == ["bob"]


def test_a_user_sees_the_own_like_at_once(client: httpx.Client, item: str) -> None:
    path, began = f"{TYPE}/{item}/users/ann", datetime.now(UTC)
    assert read(client, path) == {
        "type": TYPE, "item": item, "user": "ann", "liked": False, "since": None, "pending": False,
    }  # fmt: skip
    queued = like(client, item, "ann")
    assert queued["status"] == "queued"
    assert queued["queue"].startswith("shard-")
    seen = read(client, path)
    assert seen["liked"] is True
    assert abs((datetime.fromisoformat(seen["since"]) - began).total_seconds()) < 60
    applied(client, queued)
    eventually(lambda: read(client, path)["pending"] is False)
    assert read(client, path, consistency="primary") == {**seen, "pending": False}
    like(client, item, "ann", "DELETE")
    assert (read(client, path)["liked"], read(client, path)["since"]) == (False, None)


def test_a_repeated_request_is_applied_once(client: httpx.Client, item: str) -> None:
    """With its Idempotency-Key, a repeat that comes after the end of the like does not like again."""
    headers = {"Idempotency-Key": item}
    first = like(client, item, "ann", headers=headers)
    applied(client, first)
    like(client, item, "ann", "DELETE", params=WAIT)
    assert like(client, item, "ann", headers=headers)["id"] == first["id"]
    waited = like(client, item, "ann", headers=headers, params=WAIT)
    assert (waited["id"], waited["changed"], waited["count"]) == (first["id"], None, None)
    assert read(client, f"{TYPE}/{item}/users/ann", consistency="primary")["liked"] is False
    assert_problem(client.delete(f"/v1/likes/{TYPE}/{item}/users/ann", headers=headers), 422, "idempotency-key-reused")


def test_a_count_after_a_write(client: httpx.Client, item: str) -> None:
    write = like(client, item, "ann")
    answer = client.get(f"/v1/likes/{TYPE}/{item}", params={"after": write["id"], "wait": 30})
    found = answer.raise_for_status().json()
    assert (found["type"], found["item"], found["count"]) == (TYPE, item, 1)
    assert answer.headers["ETag"] == f'"{found["version"]}"'
    for more in ({}, {"consistency": "primary"}):
        assert read(client, f"{TYPE}/{item}", pending="false", **more)["pending"] is None
    assert_problem(client.get(f"/v1/counters/%2Flikes%2F{TYPE}%2F{item}"), 400, "invalid-request")


def test_what_waits_is_pending(whole: None, cluster: Cluster, client: httpx.Client, item: str, key: str) -> None:
    """Of likes and of counters, while no worker runs; and the own state shows it."""
    like(client, item, "ann", params=WAIT)
    with frozen(*cluster.processes("worker")):
        for user in ("bob", "cat", "bob"):
            like(client, item, user)
        like(client, item, "ann", "DELETE")
        write = client.post(f"/v1/counters/{key}/increments", json={"delta": 5}).raise_for_status().json()
        eventually(lambda: read(client, f"{TYPE}/{item}")["pending"] == 1)
        assert read(client, f"{TYPE}/{item}")["count"] == 1
        assert read(client, f"{TYPE}/{item}/users/bob")["pending"] is True
        eventually(lambda: client.get(f"/v1/counters/{key}", params={"pending": "true"}).json()["pending"] == 5)
        assert "pending" not in client.get(f"/v1/counters/{key}").json()
    applied(client, write)
    eventually(lambda: (found := read(client, f"{TYPE}/{item}"))["pending"] == 0 and found["count"] == 2)
    eventually(lambda: client.get(f"/v1/counters/{key}", params={"pending": "true"}).json()["pending"] == 0)
    assert users_of(client, item) == ["cat", "bob"], "bob's repeat moves nothing"


def test_lists_are_newest_first_and_stable(client: httpx.Client, item: str) -> None:
    """A page that follows has neither what was there before nor gaps, although others like the item meanwhile."""
    moments = {"a": 50, "b": 40, "bb": 40, "c": 40, "d": 30.5, "e": 20}
    applied(client, send(client, [event(item, user, timestamp=at) for user, at in moments.items()]))
    path = f"{TYPE}/{item}/users"
    page = read(client, path, limit=2, consistency="primary")
    assert [one["user"] for one in page["results"]] == ["a", "b"]
    assert page["results"][0]["since"] == "1970-01-01T00:00:50+00:00"
    applied(client, send(client, [event(item, "new", timestamp=60), event(item, "c", "unlike", timestamp=41)]))
    seen = []
    while page["next"]:
        page = read(client, path, limit=2, cursor=page["next"], consistency="primary")
        seen += [one["user"] for one in page["results"]]
    assert seen == ["bb", "d", "e"]
    assert users_of(client, item) == ["new", "a", "b", "bb", "d", "e"]


def test_a_repeated_like_does_not_move_its_beginning(client: httpx.Client, item: str) -> None:
    """Nor its place in the lists. After an unlike it begins anew; an unlike that comes late moves it as well."""
    user, path = f"user:{item}", f"{TYPE}/{item}/users"
    first = event(item, user, timestamp=50, event_id="first")
    applied(client, send(client, [first, event(item, "other", timestamp=60), event(f"{item}:2", user, timestamp=55)]))

    def shown() -> tuple[Any, ...]:
        likers = read(client, path, consistency="primary")["results"]
        liked = read(client, f"users/{user}", consistency="primary")["results"]
        own = read(client, f"{path}/{user}", consistency="primary")["since"]
        listed = {one.get("user") or one["item"]: one["since"] for one in (*likers, *liked)}
        assert listed[user] == listed[item] == own
        return own, [one["user"] for one in likers], [one["item"] for one in liked]

    began = "1970-01-01T00:00:50+00:00", ["other", user], [f"{item}:2", item]
    assert shown() == began
    repeats = [event(item, user, timestamp=70, event_id="second"), event(item, user, timestamp=80)]
    applied(client, send(client, repeats))
    assert like(client, item, user, params=WAIT)["changed"] is False
    assert shown() == began
    assert read(client, f"{path}/{user}", consistency="eventual")["since"] == began[0]
    page = read(client, path, limit=1, consistency="primary")
    assert [one["user"] for one in read(client, path, cursor=page["next"], consistency="primary")["results"]] == [user]
    applied(client, send(client, [event(item, user, "unlike", timestamp=75, event_id="late")]))
    since, likers, liked = shown()
    assert since > began[0]
    assert (likers, liked) == ([user, "other"], [item, f"{item}:2"])
    like(client, item, user, "DELETE", params=WAIT)
    like(client, item, user, params=WAIT)
    assert shown() > (since, likers, liked)


def test_what_a_user_likes(client: httpx.Client, item: str) -> None:
    user = f"user:{item}"
    rows = [{**event(str(n), user, timestamp=n), "item_type": f"type{n % 2}"} for n in range(1, 6)]
    applied(client, send(client, [*rows, event("6", user, "unlike", timestamp=6)]))
    page = read(client, f"users/{user}", limit=3, consistency="primary")
    assert [(one["type"], one["item"]) for one in page["results"]] == [("type1", "5"), ("type0", "4"), ("type1", "3")]
    rest = read(client, f"users/{user}", cursor=page["next"], consistency="primary")
    assert ([one["item"] for one in rest["results"]], rest["next"]) == (["2", "1"], None)


def test_many_items_for_one_user(client: httpx.Client, item: str) -> None:
    for name, user in (("a", "ann"), ("a", "bob"), ("b", "bob")):
        last = like(client, f"{item}{name}", user, params=WAIT)
    asked = {"item": [f"{item}c", f"{item}a", f"{item}b"], "consistency": "primary"}
    found = read(client, TYPE, user="ann", **asked)["results"]
    assert [(one["item"], one["count"], one["liked"]) for one in found] == [
        (f"{item}c", 0, False),
        (f"{item}a", 2, True),
        (f"{item}b", 1, False),
    ]
    assert [one["since"] is None for one in found] == [True, False, True]
    assert found[2]["version"] == last["version"]
    assert "liked" not in read(client, TYPE, **asked)["results"][0]


def rows_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    return {"events": events}


def columns_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    return {f"{name}s": [one.get(name) for one in events] for name in events[0]}


def arrow_of(events: list[dict[str, Any]]) -> bytes:
    columns = {name: [one.get(name) for one in events] for name in events[0]}
    at = [None if one is None else round(one * 1e6) for one in columns.pop("timestamp")]
    arrays = {name: pa.array(column, pa.string()) for name, column in columns.items()}
    arrays |= {"timestamp": pa.array(at, pa.timestamp("us")), "item_type": arrays["item_type"].dictionary_encode()}
    records, sink = pa.record_batch(arrays), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, records.schema) as stream:
        stream.write_batch(records)
    data: bytes = sink.getvalue().to_pybytes()
    return data


FORMATS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], bytes]]] = {
    "JSON rows": (JSON, lambda events: msgspec.json.encode(rows_of(events))),
    "JSON columns": (JSON, lambda events: msgspec.json.encode(columns_of(events))),
    "NDJSON": (NDJSON, msgspec.json.Encoder().encode_lines),
    "msgpack rows": (MSGPACK, lambda events: msgspec.msgpack.encode(rows_of(events))),
    "msgpack columns": (MSGPACK, lambda events: msgspec.msgpack.encode(columns_of(events))),
    "Arrow": (ARROW, arrow_of),
}


def test_events_in_each_format(client: httpx.Client, item: str) -> None:
    """The newest event of a user and an item decides, in whatever order they come, and an id counts once."""
    written = []
    for number, (media_type, encode) in enumerate(FORMATS.values()):
        mine = f"{item}{number}"
        events = [
            event(mine, "ann", event_id="1", timestamp=10.0),
            event(mine, "ann", "unlike", event_id="2", timestamp=9.5),
            event(mine, "bob", "unlike", event_id=str(uuid4()), timestamp=20.0),
            event(mine, "bob", "like", event_id=None, timestamp=19.0),
            event(mine, "cat", event_id="3", timestamp=None),
            event(mine, "cat", event_id="3", timestamp=None),
        ]
        answer = client.post("/v1/likes", content=encode(events), headers={"Content-Type": media_type})
        assert answer.status_code == 202, answer.text
        assert (answer.json()["accepted"], answer.json()["items"]) == (6, 1)
        written.append(answer.json())
    for number, write in enumerate(written):
        applied(client, write)
        found = read(client, f"{TYPE}/{item}{number}", consistency="primary")
        assert (found["count"], users_of(client, f"{item}{number}")) == (2, ["cat", "ann"])


def test_what_is_known_is_not_written_again(cluster: Cluster, client: httpx.Client, item: str) -> None:
    events = [event(item, "ann", event_id="1", timestamp=10), event(item, "bob", timestamp=10)]
    first = send(client, events)
    assert (first["accepted"], "repeats" in first) == (2, False)
    late = event(item, "bob", timestamp=9)
    again = send(client, [*events, late])
    assert again == {"id": None, "accepted": 3, "items": 0, "shards": 0, "repeats": 3}
    some = send(client, [events[0], event(item, "cat", timestamp=10), event(item, "bob", "unlike", timestamp=9)])
    assert (some["accepted"], some["repeats"], some["items"]) == (3, 1, 1), (
        "an unlike may change since when it is liked"
    )
    applied(client, first)
    applied(client, some)
    assert read(client, f"{TYPE}/{item}", consistency="primary")["count"] == 3
    metrics = "".join(cluster.metrics(process) for process in cluster.processes("api"))
    assert "tally_likes_repeats_total" in metrics


def test_what_a_process_knows_goes_with_its_mark(cluster: Cluster, client: httpx.Client, item: str) -> None:
    """It answers repeats when the cache has no entries of them, but only as long as the cache has the mark, too."""
    events = [event(item, "ann", event_id="1", timestamp=10), event(item, "bob", event_id=None, timestamp=10)]
    pairs, url = [Pair(f"{TYPE}/{item}", user) for user in ("ann", "bob")], cluster.processes("api")[0]["port"]

    def written() -> int:
        answer = client.post(
            f"http://127.0.0.1:{url}/v1/likes", content=arrow_of(events), headers={"Content-Type": ARROW}
        )
        assert answer.status_code == 202, answer.text
        found = answer.json()
        assert found["accepted"] == len(events)
        return len(events) - int(found.get("repeats", 0))

    def remembered() -> bool:
        redis.cache().unlink(*[recent.key_of(*pair) for pair in pairs])
        return written() == 0

    with Resources():
        eventually(lambda: not removals.exist(), 60)  # of another test: its end takes the mark, too
        assert written() == 2
        eventually(remembered)  # not if the cache was slow, and the process without a mark
        events.append(event(item, "bob", "unlike", event_id=None, timestamp=11))
        assert written() == 1
        events.append(event(item, "cat", event_id=None, timestamp=2**33 - 1))  # to come: no repeat of it is one
        assert [written(), written()] == [1, 1]
        recent.forget(pairs)
        assert written() == 4
        redis.cache().unlink(recent.MARK)
        assert written() == 1


def test_a_repeat_with_another_timestamp_hides_nothing(client: httpx.Client, item: str) -> None:
    """An id counts with its oldest timestamp: so an event between the two is newer, whatever the quick look has seen."""
    written = [
        send(client, [event(item, "ann", event_id="x", timestamp=5)]),
        send(client, [event(item, "ann", "unlike", event_id="y", timestamp=6)]),
        send(client, [event(item, "ann", event_id="x", timestamp=9)]),
        send(client, [event(item, "ann", "unlike", event_id="z", timestamp=7)]),
    ]
    for write in written:
        applied(client, write)
    assert read(client, f"{TYPE}/{item}", consistency="primary")["count"] == 0
    eventually(lambda: read(client, f"{TYPE}/{item}/users/ann") == {
        "type": TYPE, "item": item, "user": "ann", "liked": False, "since": None, "pending": False,
    })  # fmt: skip


def test_a_late_event_hides_no_newer_one(client: httpx.Client, item: str) -> None:
    """Not even before anything is applied: the quick look keeps the newer one."""
    like(client, item, "ann")
    late = send(client, [event(item, "ann", "unlike", event_id="late", timestamp=10)])
    assert read(client, f"{TYPE}/{item}/users/ann")["liked"] is True
    applied(client, late)
    assert users_of(client, item) == ["ann"]


def test_events_with_an_idempotency_key(client: httpx.Client, item: str) -> None:
    headers = {"Idempotency-Key": item}
    events = [event(item, "ann", timestamp=10), event(item, "bob")]
    assert send(client, events, headers=headers) == send(client, events, headers=headers)
    answer = client.post("/v1/likes", json={"events": events[:1]}, headers=headers)
    assert_problem(answer, 422, "idempotency-key-reused")


def test_no_list_of_counters_has_counts_of_likes(client: httpx.Client, item: str) -> None:
    """They would stand between these two."""
    like(client, item, "ann", params=WAIT)
    before, behind = f".{item}", f"0{item}"
    for key in (before, behind):
        client.put(f"/v1/counters/{key}", json={"value": 1}).raise_for_status()
    cursor = base64.urlsafe_b64encode(f"-{item}".encode()).decode().rstrip("=")
    seen: list[str] = []
    while cursor and behind not in seen:
        asked = f"cursor={cursor}&limit=1000&consistency=primary"
        page = client.get(f"/v1/counters?{asked}").raise_for_status().json()
        seen += [one["key"] for one in page["results"]]
        cursor = page["next"]
    assert seen.index(before) < seen.index(behind)
    assert not [key for key in seen if "/" in key]


@pytest.mark.parametrize(
    ("path", "field", "rule"),
    [
        ("/v1/likes/users/a/users/ann", "type", "reserved word users"),
        ("/v1/likes/users/a/users", "type", "reserved word users"),
        ("/v1/likes/users?item=a", "type", "reserved word users"),
        (f"/v1/likes/{'t' * 41}/a", "type", "1 to 40 characters"),
        (f"/v1/likes/test/{'a' * 141}", "item", "1 to 140 characters"),
        ("/v1/likes/test/a/users/a%20b", "user", "1 to 140 characters"),
        ("/v1/likes/test/a/users/", "user", "1 to 140 characters"),
        ("/v1/likes/users/a%2Fb", "user", "1 to 140 characters"),
        ("/v1/likes/test/a/b", "type", "1 to 40 characters"),
        ("/v1/likes/test", "item", "1 to 1000 items"),
        ("/v1/likes/test?item=a&item=", "item", "1 to 140 characters"),
        ("/v1/likes/test/a/users?cursor=x", "cursor", "the value of next"),
        ("/v1/likes/test/a/users?limit=0", "limit", "from 1 to 1000"),
        ("/v1/likes/test/a?pending=1", "pending", "true or false"),
    ],
)
def test_what_is_no_name(client: httpx.Client, path: str, field: str, rule: str) -> None:
    (told,) = assert_problem(client.get(path), 400, "invalid-request")["errors"]
    assert told["field"] == field
    assert rule in told["rule"]


def test_writes_ignore_the_parameters_of_reads(client: httpx.Client, item: str, key: str) -> None:
    """Of likes as of counters."""
    like_path, asked = f"/v1/likes/{TYPE}/{item}/users/ann", {"consistency": "x", "pending": "x"}
    answers = [
        *(client.request(method, like_path, params=asked) for method in ("PUT", "DELETE")),
        client.put(f"/v1/counters/{key}", params=asked, json={"value": 1}),
        client.post(f"/v1/counters/{key}/increments", params=asked, json={"delta": 1}),
        client.delete(f"/v1/counters/{key}", params=asked),
    ]
    assert [answer.status_code for answer in answers] == [202, 202, 200, 202, 200]


def test_names_that_look_like_calls(client: httpx.Client) -> None:
    """An item and a user may be called `users`."""
    assert read(client, "test/users/users/users")["user"] == "users"
    assert read(client, "test/users/users")["results"] == []
    assert read(client, "test/users")["item"] == "users"
    assert read(client, "users/users")["results"] == []


BAD_EVENTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a bad user": ({"user_id": "a b"}, "user_id", "1 to 140 characters"),
    "a reserved type": ({"item_type": "users"}, "item_type", "reserved word users"),
    "an empty item": ({"item_id": ""}, "item_id", "1 to 140 characters"),
    "another action": ({"action": "love"}, "action", "Invalid enum value 'love'"),
    "too long an id": ({"event_id": "x" * 65}, "event_id", "length <= 64"),
    "a time before 1970": ({"timestamp": -1}, "timestamp", "from 1970 to 2255"),
    "a time after 2255": ({"timestamp": 9_007_199_255}, "timestamp", "from 1970 to 2255"),
    "a time without a zone": ({"timestamp": "2026-01-01T00:00:00"}, "timestamp", "timezone"),
}


@pytest.mark.parametrize("name", BAD_EVENTS)
def test_events_that_are_refused(client: httpx.Client, item: str, name: str) -> None:
    """The first bad one is named; nothing of the request is written."""
    bad, field, rule = BAD_EVENTS[name]
    good = event(item, "ann")
    for body, place in (
        (rows_of([good, {**good, **bad}]), f"events[1].{field}"),
        (columns_of([{**bad, **good}, {**good, **bad}]), f"{field}s[1]"),
    ):
        if place.startswith("event_ids") or place.startswith("timestamps"):
            body[place.partition("[")[0]][0] = None
        (told,) = assert_problem(client.post("/v1/likes", json=body), 400, "invalid-request")["errors"]
        assert told["field"] == place
        assert rule in told["rule"]
    assert read(client, f"{TYPE}/{item}", consistency="primary")["version"] == 0


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with LoopThread("recent") as thread:
        yield thread


async def seen_by(connection: LoopConnection, event: Event) -> tuple[list[Event], list[Event]]:
    """What a quick look leaves of an event, before and after it is kept."""
    looks = Recent(connection)
    ((key, entry),) = recent.newest([event], 20).items()

    async def left() -> list[Event]:
        return list(recent.unknown([event], list(map(Entry.decoded, await looks.get([key])))))

    before = await left()
    await looks.put([(key, entry.encoded())])
    after = await left()
    await looks.close()
    return before, after


async def _connected(url: str) -> LoopConnection:
    return LoopConnection(pool_of(url, 0.1), 0.1) if url else cache_connection()


def test_without_the_cache_everything_is_written(cluster: Cluster, loop: LoopThread, item: str) -> None:
    known = Event(f"{TYPE}/{item}", "ann", liked=True, at=10)
    with Resources():  # with a breaker of its own
        assert loop.run(seen_by(loop.run(_connected("")), known)) == ([known], [])
        assert loop.run(seen_by(loop.run(_connected("redis://127.0.0.1:1/0")), known)) == ([known], [known])
