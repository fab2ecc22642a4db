"""A user is removed: every like, exactly once from every count, and from the event log, whatever is killed on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from django.core.management import CommandError

from counters import service
from likes import locks, recent, removals, writes
from likes.events import Event
from likes.models import Removal
from likes.names import count_key
from likes.reading import Pair
from likes.sides import clock
from runtime import redis
from runtime.broker import broker
from sharding.lanes import EXCESS
from tests.support.browser import Browser
from tests.support.cluster import Cluster, eventually, frozen
from tests.support.journal import is_drained, lane_of
from tests.support.likes import SHARDS, found, submit
from tests.support.shards import rows

pytestmark = pytest.mark.usefixtures("whole")


class Killed(BaseException):
    """The process dies."""


@pytest.fixture
def items() -> list[str]:
    return [f"test/{uuid4().hex}" for _ in range(5)]


@pytest.fixture
def user() -> str:
    return uuid4().hex


@pytest.fixture
def serving() -> Iterator[None]:
    """This process removes users: no task does, which beat would begin every minute."""
    with ExitStack() as stack:
        eventually(lambda: _only_here(stack), 60)
        stack.enter_context(service.in_background())
        yield


def _only_here(stack: ExitStack) -> bool:
    with suppress(locks.Taken):
        stack.enter_context(locks.removing())
        return True
    return False


def drained() -> None:
    eventually(lambda: all(is_drained(shard) for shard in SHARDS), 60)


def like(items: list[str], *users: str, liked: bool = True) -> None:
    submit(writes.write([Event(item, user, liked=liked, id=uuid4().bytes) for item in items for user in users]))


def logged(user: str) -> list[tuple[Any, ...]]:
    query = "SELECT item, liked FROM like_events WHERE user_id = %s"
    return [row for shard in SHARDS for row in rows(shard, query, user)]


def asked(user: str) -> Removal:
    """A removal that no task is sent for."""
    return Removal.objects.create(id=uuid4(), user=user, position=clock())


def is_gone(user: str, items: list[str], others: int = 1) -> None:
    there = found(items)
    there.check(items)
    assert not [pair for pair in there.by_item if pair[1] == user]
    assert there.counts == dict.fromkeys(items, others)
    assert logged(user) == []


def test_a_removed_user_is_nowhere_and_may_come_back(
    cluster: Cluster, client: httpx.Client, root: Browser, user: str, items: list[str]
) -> None:
    like(items, user, "another")
    like(items[:1], user, liked=False)
    type_, _, name = items[1].partition("/")
    client.put(f"/v1/likes/{items[1]}/users/{user}", params={"wait": 30}).raise_for_status()  # known to the quick look
    with cluster.client(cluster.make_key("write")) as writer:
        assert writer.delete(f"/v1/likes/users/{user}").status_code == 403
    key = {"Idempotency-Key": uuid4().hex}
    answer = client.delete(f"/v1/likes/users/{user}", headers=key)
    assert answer.status_code == 202, answer.text
    again = client.delete(f"/v1/likes/users/{user}", headers=key)
    assert again.json()["id"] == answer.json()["id"]
    back = client.put(f"/v1/likes/{items[2]}/users/{user}", params={"wait": 30}).json()  # accepted afterwards
    assert back["status"] == "applied"
    assert client.put(f"/v1/likes/{items[2]}/users/{user}", params={"wait": 30}).json()["changed"] is False

    address = answer.headers["Location"]
    done = eventually(lambda: told if (told := client.get(address).json())["state"] == "done" else None, 60)
    assert (done["user"], done["done"]) == (None, done["total"])
    assert done["done"] in (len(items) - 1, len(items))  # the like that came back may have been found as it was before
    there = found(items)
    there.check(items)
    assert [pair for pair in there.by_item if pair[1] == user] == [(items[2], user)]
    assert there.counts == {item: 2 if item == items[2] else 1 for item in items}
    assert {*logged(user)} == {(items[2], True)}
    assert [
        rows(shard, "SELECT FROM user_likes WHERE user_id = %s AND earlier IS NOT NULL", user) for shard in SHARDS
    ] == [
        [],
        [],
    ]
    assert client.get(f"/v1/likes/{type_}/{name}/users/{user}").json()["liked"] is False
    own = client.get(f"/v1/likes/{items[2]}/users/{user}", params={"consistency": "primary"}).json()
    assert own["liked"] is True
    asked_at = Removal.objects.get(id=UUID(done["id"])).position
    assert datetime.fromisoformat(own["since"]) > datetime.fromtimestamp(asked_at / 1e6, UTC), "not since before"
    assert user not in root.get("/admin/likes/removal/", params={"q": answer.json()["id"]}).text
    assert Removal.objects.get(id=UUID(done["id"])).user == ""
    for unknown in (str(uuid4()), "x"):
        assert client.get(f"/v1/removals/{unknown}").json()["type"] == "urn:tally:problem:unknown-removal"


@pytest.mark.usefixtures("serving")
def test_a_removal_that_is_killed_goes_on_and_counts_once(
    monkeypatch: pytest.MonkeyPatch, user: str, items: list[str]
) -> None:
    """Killed after each of its steps in turn; the steps before are done again each time."""
    like(items, user, "another")
    drained()
    removal = asked(user)
    monkeypatch.setattr(removals, "_AT_A_TIME", 2)
    steps = ["_unlike", "_delete", "_forget_earlier", "_forget_events"]
    for step in steps:
        work = getattr(removals, step)

        def killed(*arguments: Any, work: Any = work) -> None:
            work(*arguments)
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(removals, step, killed)
            with pytest.raises(Killed):
                removals.run(Removal.objects.get(id=removal.id))
    removals.run(Removal.objects.get(id=removal.id))
    drained()
    is_gone(user, items)
    ended = Removal.objects.get(id=removal.id)
    assert (ended.state, ended.user) == ("done", "")
    assert datetime.now(UTC) > (ended.ended_at or datetime.max.replace(tzinfo=UTC))
    assert removal.id not in {one.id for one in removals.unfinished()}


@pytest.mark.usefixtures("serving")
def test_a_like_that_came_back_is_not_since_before(user: str, items: list[str]) -> None:
    """Without ids, its row has nothing else from before."""
    submit(writes.write([Event(items[0], user, liked=True)]))
    drained()
    removal = asked(user)
    submit(writes.write([Event(items[0], user, liked=True)]))
    removals.run(removal)
    for table in ("user_likes", "liked_items"):
        query = f"SELECT since, at > %s FROM {table} WHERE user_id = %s"
        assert [row for shard in SHARDS for row in rows(shard, query, removal.position, user)] == [(None, True)], table


@pytest.mark.usefixtures("serving")
def test_what_was_accepted_before_and_waits_is_removed_too(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, user: str, items: list[str]
) -> None:
    """Spilled likes are applied late. On the item's side one would come after the removal, and like again."""
    like(items, "another")
    like(items[1:], user)
    drained()
    with frozen(*cluster.processes("spill-worker")):
        spilled = writes.write([Event(items[0], user, liked=True, id=uuid4().bytes)])
        submit(spilled, place=lambda lane: lane.of(EXCESS) if lane == lane_of(count_key(items[0])) else lane)
        removal = asked(user)
        with monkeypatch.context() as patch:
            patch.setattr(removals, "APPLIED_SECONDS", 1.5)
            with pytest.raises(removals.Unfinished):
                removals.run(removal)
    removals.run(removal)
    drained()
    is_gone(user, items)


@pytest.mark.usefixtures("serving")
def test_what_a_replay_had_written_before_it_was_killed_is_removed_too(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, user: str, items: list[str]
) -> None:
    """It was accepted after the request, but is older. A like of the same moment as the request is not."""
    like(items, "another")
    drained()
    removal, kept = asked(user), f"test/{uuid4().hex}"
    with frozen(*cluster.processes("worker")):
        events = [Event(item, user, liked=True, at=removal.position - 1) for item in items]
        submit(writes.write([*events, Event(kept, user, liked=True, at=removal.position)], least=0))
        with monkeypatch.context() as patch:
            patch.setattr(removals, "APPLIED_SECONDS", 1.5)
            with pytest.raises(removals.Unfinished):
                removals.run(removal)
    removals.run(removal)
    drained()
    there = found([*items, kept])
    there.check([*items, kept])
    assert [pair for pair in there.by_item if pair[1] == user] == [(kept, user)]
    assert logged(user) == [(kept, True)]


def test_no_event_is_replayed_while_a_user_is_removed(cluster: Cluster, user: str, items: list[str]) -> None:
    """A replay may have read what the log is about to forget."""
    like(items, "another")
    began = clock()
    like(items, user)
    drained()
    with locks.replaying():
        removal = removals.ask(user, "a test", uuid4())
        eventually(lambda: Removal.objects.get(id=removal.id).detail.startswith("events are being replayed"))
    with locks.no_replay(), pytest.raises(CommandError, match="A user is being removed"):
        cluster.command("likes", "replay", "--since", str(began))
    broker().send_task(removals.TASK, ignore_result=True)
    eventually(lambda: Removal.objects.get(id=removal.id).state == "done", 90)  # beat sends it every minute, too
    cluster.command("likes", "replay", "--since", str(began))
    is_gone(user, items)


@pytest.mark.usefixtures("serving")
def test_the_quick_look_forgets_the_user(user: str, items: list[str], client: httpx.Client) -> None:
    for item in items:
        client.put(f"/v1/likes/{item}/users/{user}").raise_for_status()
    removal = asked(user)
    removals.run(removal)
    keys = [recent.key_of(*Pair(item, user)) for item in items]
    assert redis.cache().mget(keys) == [None] * len(keys)
