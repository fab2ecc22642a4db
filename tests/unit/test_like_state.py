"""The state of a like: merging takes events in any order, late and twice. Pure."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from counters.batch import Events
from likes.applying import _columns
from likes.events import NOW, Event, folded, moment
from likes.state import EARLIER, State, _decoded, after, merged

RETENTION = 10**9
VERSION = 1000

moments = st.integers(0, 20)
ids = st.sampled_from([b"", b"", b"a", b"b", b"c"])
events = st.lists(st.tuples(moments, st.booleans(), ids), min_size=1, max_size=8)


def state_of(events: list[tuple[int, bool, bytes]]) -> State | None:
    state = None
    for at, liked, id in events:
        state = merged(state, at, liked, id, VERSION, RETENTION)
    return state


def decided(state: State | None) -> State | None:
    """Without since when it is liked, which depends on the order of arrival."""
    return state._replace(since=None) if state and state.liked else state


def newest(events: list[tuple[int, bool, bytes]]) -> tuple[int, bytes, bool]:
    """What decides: each id counts once, as it was first."""
    first: dict[bytes, tuple[int, bool]] = {}
    for at, liked, id in events:
        known = first.get(id, (at, liked))
        first[id] = min(known, (at, liked)) if id else max(known, (at, liked))
    return max((at, id, liked) for id, (at, liked) in first.items())


@given(events, st.randoms(use_true_random=False))
def test_events_may_come_in_any_order_and_twice(events: list[tuple[int, bool, bytes]], random: Random) -> None:
    shuffled = [*events, *random.choices(events, k=3)]
    random.shuffle(shuffled)
    state = state_of(events)
    assert decided(state_of(shuffled)) == decided(state)
    assert state is not None
    assert (state.at, state.id, state.liked) == newest(events)


@example([(0, False, b"")], [(0, True, b""), (1, True, b"")])
@given(events, events)
def test_what_is_known_changes_nothing(
    before: list[tuple[int, bool, bytes]], more: list[tuple[int, bool, bytes]]
) -> None:
    """The same object then: nothing is written."""
    state = state_of(before + more)
    for at, liked, id in before:
        assert merged(state, at, liked, id, VERSION, RETENTION) is state


@given(st.lists(st.tuples(st.booleans(), ids), min_size=1, max_size=12))
def test_it_is_liked_since_the_first_like_after_the_newest_unlike(events: list[tuple[bool, bytes]]) -> None:
    """If events come in their order, each with an id of its own or none."""
    state, since = None, None
    for at, (liked, id) in enumerate(events):
        state = merged(state, at, liked, id and id + bytes([at]), VERSION, RETENTION)
        since = (at if since is None else since) if liked else None
        assert (state.began if state.liked else None) == since


@given(events)
def test_it_is_liked_since_a_moment_that_no_known_unlike_follows(events: list[tuple[int, bool, bytes]]) -> None:
    """In whatever order they come."""
    state = None
    for event in events:
        before, state = state, merged(state, *event, VERSION, RETENTION)
        if not state.liked:
            continue
        known = [(state.at, state.liked), *_decoded(state.earlier).values()]
        assert state.began <= state.at
        assert state.began != state.since or state.began < state.at, "NULL takes no space"
        assert not [at for at, liked in known if not liked and state.began < at < state.at]
        if before and before.liked:
            assert state.began >= min(before.began, state.at), "never back"


@pytest.mark.parametrize("id", [b"", b"x"])
def test_a_late_unlike_moves_since_when_it_is_liked(id: bytes) -> None:
    likes = [(10, True, b""), (20, True, b""), (30, True, b"")]
    state = state_of(likes)
    assert state == State(30, True, b"", None, 10)
    assert decided(state_of([*likes, (9, False, id)])) == decided(state_of([(9, False, id), *likes]))
    assert merged(state, 9, False, id, VERSION, RETENTION).began == 10
    assert merged(state, 10, False, id, VERSION, RETENTION).began == 10, "a like of the same moment is newer"
    parted = merged(state, 15, False, id, VERSION, RETENTION)
    assert parted.began == 30, "20 is not known any more"
    assert merged(parted, 15, False, id, VERSION, RETENTION) is parted
    assert merged(state, 40, False, id, VERSION, RETENTION).since == VERSION
    assert merged(merged(state, 40, False, id, VERSION, RETENTION), 50, True, b"", VERSION, RETENTION).began == 50


def test_a_repeat_with_another_timestamp_undoes_nothing() -> None:
    """Also where the repeat came before the event itself."""
    first, unlike, repeat = (10, True, b"x"), (20, False, b"y"), (30, True, b"x")
    for order in ([first, unlike, repeat], [repeat, unlike, first], [repeat, first, unlike]):
        state = state_of(order)
        assert state is not None
        assert (state.at, state.liked) == (20, False)


def test_a_state_is_bounded_and_needs_little_without_ids() -> None:
    state = state_of([(n, True, n.to_bytes(16, "big")) for n in range(100)])
    assert state is not None
    assert state.earlier is not None
    assert len(state.earlier) == EARLIER * 26
    assert state_of([(n, n % 2 == 0, b"") for n in range(100)]) == State(99, False, b"", None, VERSION)


@given(events, moments)
def test_events_up_to_a_moment_can_be_forgotten(events: list[tuple[int, bool, bytes]], position: int) -> None:
    state = state_of(events)
    if state and state.earlier:
        kept = {id: event for id, event in _decoded(state.earlier).items() if event[0] > position}
        assert _decoded(after(state.earlier, position)) == kept
        assert (after(state.earlier, position) is None) == (not kept)


def test_an_unlike_is_forgotten_after_the_retention() -> None:
    """Its row may be gone by then: what comes is taken as the first."""
    unliked = merged(None, 50, False, b"", VERSION, RETENTION)
    assert merged(unliked, 40, True, b"", VERSION + RETENTION, RETENTION) is unliked
    assert merged(unliked, 40, True, b"", VERSION + RETENTION + 1, RETENTION) == State(40, True, b"")
    liked = merged(None, 50, True, b"", VERSION, RETENTION)
    assert merged(liked, 40, False, b"", VERSION + 2 * RETENTION, RETENTION) is liked, "a like is never forgotten"


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ([[1], [True]], "have 3 columns, not 2"),
        ([[1], [True], ["text"]], "else than bytes"),
        ([[1], [1], [b""]], "else than bool"),
        ([[1.5], [True], [b""]], "else than int"),
        ([[-1], [True], [b""]], "before 1970"),
        ([[1], [True], [bytes(300)]], "too long"),
    ],
)
def test_events_that_no_version_can_apply_are_told_from_others(columns: list[list[Any]], why: str) -> None:
    """Their batch is set aside: a worker must not stumble over them again and again."""
    with pytest.raises(ValueError, match=why):
        _columns(Events("like", ["/likes/post/1"], ["/likers/u"], columns))


def test_no_event_is_later_than_its_write() -> None:
    assert [moment(at, 100) for at in (99, 100, 101, NOW)] == [99, 100, 100, 100]


def test_a_write_has_each_event_once() -> None:
    def event(at: int, liked: bool, id: bytes = b"", item: str = "i") -> Event:
        return Event(item, "u", liked, at, id)

    assert folded([event(NOW, True), event(NOW, False)]) == [event(NOW, False)], "the last without a timestamp"
    assert folded([event(9, True), event(5, False)]) == [event(9, True)]
    assert folded([event(9, True, b"a"), event(5, True, b"a"), event(9, True, b"a")]) == [event(5, True, b"a")]
    several = [event(1, True, b"a"), event(2, False, b"b"), event(1, True, b"a", "j"), event(1, True)]
    assert folded(several) == several
