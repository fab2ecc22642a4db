"""When a replica that does not follow is copied again: after nothing but trouble for its patience. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication import healing, outage
from replication.copies import Primary
from replication.outage import BEGIN_SECONDS, MOST_SECONDS, SHOWN_SECONDS, STALE_SECONDS, Look, Outage
from replication.patroni import Member

PATIENCE = 15.0
states = st.sampled_from(["streaming", "running", "stopped", "start failed", "starting", "creating replica"])
looks = st.lists(
    st.tuples(st.floats(0.1, 2 * STALE_SECONDS), st.sampled_from("ab"), states, st.sampled_from(["1", "2"])),
    min_size=1,
    max_size=60,
)


def watched(*states: str, every: float = 2.0, leader: str = "a", position: str = "1") -> tuple[Outage | None, Look]:
    """What is remembered after looks at these states, and the last look."""
    found, look = None, Look(0, leader, "", position)
    for n, state in enumerate(states):
        look = Look(n * every, leader, state, position)
        found = outage.after(found, look, PATIENCE)
    return found, look


def due_after(*states: str) -> bool:
    found, look = watched(*states)
    return found is not None and outage.is_due(found, look, PATIENCE)


def test_nothing_is_remembered_of_one_that_follows() -> None:
    assert watched("streaming", "streaming")[0] is None


def test_it_is_due_after_its_patience_and_not_before() -> None:
    assert not due_after(*["running"] * 8)  # 14 s
    assert due_after(*["running"] * 9)
    assert due_after(*["starting", "start failed"] * 4, "starting")


@pytest.mark.parametrize(
    "hope",
    [
        {"state": "streaming"},
        {"state": "creating replica"},
        {"leader": "b"},
        {"position": "2"},
        {"at": 16 + STALE_SECONDS + 1},
    ],
)
def test_hope_starts_the_clock_anew(hope: dict[str, Any]) -> None:
    found, look = watched(*["running"] * 9)
    look = look._replace(**({"at": look.at + 2} | hope))
    found = outage.after(found, look, PATIENCE)
    last = look._replace(state="running", at=look.at + 2)
    found = outage.after(found, last, PATIENCE)
    assert found is not None
    assert not outage.is_due(found, last, PATIENCE)


def test_a_clock_that_is_set_back_delays_no_copy() -> None:
    found: Outage | None = Outage("a", "1", seen=3600, since=3590).after_attempt(3600)
    for at in range(0, 2 * int(PATIENCE) + 1, 2):
        look = Look(at, "a", "running", "1")
        assert found is not None
        assert not outage.is_being_copied(found, look)
        assert outage.may_repeat(found, at, PATIENCE)
        found = outage.after(found, look, PATIENCE)
        assert found is not None
        assert outage.is_due(found, look, PATIENCE) is (at == 2 * PATIENCE)


@pytest.mark.parametrize(
    ("said", "primary", "seen"),
    [
        ("streaming", Primary("h", 1, ["b"]), "streaming"),
        ("streaming", Primary("h", 1, []), healing.WAITING),
        ("streaming", Primary("h", 2, []), "streaming"),  # not the server that Patroni calls the leader
        ("streaming", None, "streaming"),
        ("creating replica", Primary("h", 1, []), "creating replica"),
        ("running", Primary("h", 1, []), "running"),
    ],
)
def test_a_replica_streams_if_its_primary_says_so_too(said: str, primary: Primary | None, seen: str) -> None:
    """One that is ahead of its primary waits for it; Patroni calls it running and streaming in turn."""
    leader = Member("a", "leader", "running", "h", 1)
    assert healing.state(Member("b", "replica", said), leader, primary) == seen


def test_each_copy_doubles_the_pause_until_it_has_followed_as_long() -> None:
    found: Outage | None = Outage("a", "1", seen=0, since=0)
    for attempts in range(12):
        assert found is not None
        assert found.patience(PATIENCE) == min(MOST_SECONDS, PATIENCE * 2**attempts)
        found = found.after_attempt(0)
    found, at = Outage("a", "1", seen=0, since=0).after_attempt(0), 0.0
    while at <= 2 * PATIENCE:
        assert found is not None
        found = outage.after(found, Look(at, "a", "streaming", str(at)), PATIENCE)
        at += 2
    assert found is None


def test_an_ordered_copy_counts_as_one_that_runs() -> None:
    ordered = Outage("a", "1", seen=0, since=0).after_attempt(0)
    for state, seconds in (("running", BEGIN_SECONDS), ("streaming", SHOWN_SECONDS)):
        assert outage.is_being_copied(ordered, Look(seconds - 1, "a", state, "1"))
        assert not outage.is_being_copied(ordered, Look(seconds, "a", state, "1"))
    assert outage.is_being_copied(None, Look(99, "a", "creating replica", ""))
    assert not outage.is_being_copied(None, Look(0, "a", "running", ""))


def test_one_that_differs_again_waits_for_the_pause() -> None:
    ordered = Outage("a", "1", seen=0, since=0).after_attempt(0)
    assert outage.may_repeat(None, 0, PATIENCE)
    assert not outage.may_repeat(ordered, 2 * PATIENCE - 1, PATIENCE)
    assert outage.may_repeat(ordered, 2 * PATIENCE, PATIENCE)


@given(looks)
def test_whatever_is_seen_it_is_due_only_after_nothing_but_trouble(seen: list[tuple[float, str, str, str]]) -> None:
    found, at = None, 0.0
    history: list[Look] = []
    for gap, leader, state, position in seen:
        at += gap
        look = Look(at, leader, state, position)
        found = outage.after(found, look, PATIENCE)
        history.append(look)
        if found is None or not outage.is_due(found, look, PATIENCE):
            continue
        recent = [one for one in history if look.at - one.at < PATIENCE]
        assert {(one.leader, one.position) for one in recent} == {(leader, position)}
        assert not {one.state for one in recent} & {outage.FOLLOWS, *outage.COPIES}


@given(st.floats(0, 1e10), st.integers(0, 100))
def test_what_is_remembered_is_read_back(at: float, attempts: int) -> None:
    kept = Outage("a", "0/1 0/1", at, at, follows=True, attempts=attempts, attempted=at)
    assert msgspec.json.decode(msgspec.json.encode(kept), type=Outage) == kept
