"""The quick look: an event that it calls known changes nothing, whatever else was accepted, and in whatever order it is
applied."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from likes.events import NOW, Event, moment
from likes.reading import Row
from likes.recent import Entry, OwnState, key_of, newest
from likes.state import State, merged

WEEK = 7 * 86400 * 1_000_000
START = 1_000
EVENTS = st.builds(
    Event,
    st.just("post/1"),
    st.just("ann"),
    st.booleans(),
    st.one_of(st.integers(START - 5, START + 5), st.just(NOW)),
    st.sampled_from([b"", b"", b"a", b"b"]),
)


@given(st.lists(EVENTS, min_size=1, max_size=12), EVENTS, st.data())
def test_what_is_known_changes_nothing(accepted: list[Event], event: Event, data: st.DataObject) -> None:
    versions = range(START, START + len(accepted))
    writes = list(zip(accepted, versions, strict=True))
    (seen, version) = data.draw(st.sampled_from(writes))
    entry = Entry(seen.liked, False, version, moment(seen.at, version), seen.id)
    if not entry.is_known(event):
        return
    state: State | None = None
    for one, its in data.draw(st.permutations(writes)):
        state = merged(state, moment(one.at, its), one.liked, one.id, its, WEEK)
    last = START + len(accepted)
    assert merged(state, moment(event.at, last), event.liked, event.id, last, WEEK) == state


@given(EVENTS, st.integers(START, START + 10))
def test_a_repeat_is_known(event: Event, version: int) -> None:
    """If it states its timestamp, or has an id."""
    entry = Entry(event.liked, False, version, moment(event.at, version), event.id)
    assert entry.is_known(event) == (event.at <= version or bool(event.id))


@given(st.booleans(), st.booleans(), st.integers(0, 2**53), st.integers(0, 2**53), st.binary(max_size=64))
def test_an_entry_is_what_was_kept(liked: bool, spilled: bool, version: int, at: int, id: bytes) -> None:
    entry = Entry(liked, spilled, version, at, id)
    assert Entry.decoded(entry.encoded()) == entry


def test_the_own_state_is_the_newer_of_row_and_entry() -> None:
    entry = Entry(liked=True, spilled=False, version=10, at=10, id=b"")
    assert OwnState.of(Row(5, False, 5, through=9), entry) == OwnState(True, 10, pending=True)
    assert OwnState.of(Row(0, False, 0, through=9), None) == OwnState(False, 0, pending=False)
    assert OwnState.of(Row(12, False, 12, through=9), entry) == OwnState(False, 12, pending=False)
    # What has the write knows better: the event may have been a repeat with another timestamp.
    assert OwnState.of(Row(5, False, 5, through=10), entry) == OwnState(False, 5, pending=False)
    assert OwnState.of(Row(5, False, 5, through=99), entry._replace(spilled=True)) == OwnState(True, 10, pending=True)
    # A repeat of a like does not move its beginning.
    assert OwnState.of(Row(7, True, 4, through=9), entry) == OwnState(True, 4, pending=True)


def test_an_event_that_its_lane_has_passed_may_be_missing() -> None:
    entry = Entry(liked=True, spilled=False, version=10, at=9, id=b"")
    assert entry.is_missing_in(Row(8, True, 8, through=10))
    assert not entry.is_missing_in(Row(9, True, 8, through=10)), "it has been applied"
    assert not entry.is_missing_in(Row(8, True, 8, through=9)), "it will be applied"
    assert not entry._replace(spilled=True).is_missing_in(Row(8, True, 8, through=10)), "it waits in any case"


def test_of_a_write_the_newest_event_is_kept() -> None:
    item, other = "post/1", "post/2"
    events = [
        Event(item, "ann", liked=True, at=9),
        Event(item, "ann", liked=False, at=5),
        Event(other, "ann", liked=True),
    ]
    found = newest(events, 20, {other})
    assert found == {
        key_of(item, "ann"): Entry(True, False, 20, 9, b""),
        key_of(other, "ann"): Entry(True, True, 20, 20, b""),
    }
    known = {key_of(item, "ann"): Entry(True, False, 15, 15, b"")}
    assert newest(events[:2], 20, known=known) == {}
