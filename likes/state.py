"""What is known of one user and one item: a state that events are merged into. Pure.

Invariant: merging is idempotent and commutative, so both copies of a like are the same whatever comes first, late or
twice (tests/unit/test_like_state.py). The state is a set of events, and the newest of them decides:

- An event is newer than another if its (moment, id, liked) is greater.
- Of events with the same id, the oldest counts: a repeat with another timestamp changes nothing.
- Of events without an id, the newest counts. It needs no memory of the others.

The set is bounded: the newest `EARLIER` events are kept beside the one that decides. An id that is no longer among them
may count again. So may any event once an unlike is older than the retention: then its row may be gone.

Since when an item is liked (`State.began`) is the one thing that depends on the order of arrival. A like of what is liked
already does not move it. An unlike that comes late, from between it and the newest event, moves it to that event. A like
that comes late does not move it back.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

EARLIER = 32
_ENTRY = struct.Struct(">QH")  # moment and liked in one number, bytes of the id


class State(NamedTuple):
    """The newest event (`at`: its moment in microseconds), and those before it, encoded. `since`: of a like, the moment since
    which it is liked, None if that is `at`; of an unlike, the newest version of the writes that said so."""

    at: int
    liked: bool
    id: bytes
    earlier: bytes | None = None
    since: int | None = None

    @property
    def began(self) -> int:
        """`since`, where None stands for `at`."""
        return self.at if self.since is None else self.since


def merged(state: State | None, at: int, liked: bool, id: bytes, version: int, retention: int) -> State:  # noqa: PLR0913, PLR0917
    """The state after an event of a write with this version; the same object if the event was known.

    `at` is the event's moment. `retention`, in microseconds as `version`: how long an unlike is known.
    """
    if state is None or (not state.liked and state.began < version - retention):
        return State(at, liked, id, None, None if liked else version)
    events = {state.id: (state.at, state.liked), **_decoded(state.earlier)}
    event, known = (at, liked), events.get(id)
    if known is not None and (event >= known if id else event <= known):
        if id or state.since is None or not _parts(state, *event):
            return state
        return state._replace(since=None)
    events[id] = event
    newest, *others = sorted(((*one, id) for id, one in events.items()), key=_age, reverse=True)[: 1 + EARLIER]
    found = State(*newest, _encoded(others), _since(state, newest, event, version))
    return state if found == state else found


def _since(state: State, newest: tuple[int, bool, bytes], event: tuple[int, bool], version: int) -> int | None:
    at, liked, _ = newest
    if not liked:
        return version if state.liked else max(version, state.began)
    if not state.liked or _parts(state, *event) or state.began >= at:
        return None
    return state.began


def _parts(state: State, at: int, liked: bool) -> bool:
    """Whether an event, older than one that likes, is an unlike within the time that the state calls liked."""
    return not liked and state.liked and at > state.began


def after(earlier: bytes, position: int) -> bytes | None:
    """Earlier events without those of a moment up to a position."""
    left = [(at, liked, id) for id, (at, liked) in _decoded(earlier).items() if at > position]
    return _encoded(left)


def _age(event: tuple[int, bool, bytes]) -> tuple[int, bytes, bool]:
    at, liked, id = event
    return at, id, liked


def _encoded(events: list[tuple[int, bool, bytes]]) -> bytes | None:
    return b"".join(_ENTRY.pack(at << 1 | liked, len(id)) + id for at, liked, id in events) or None


def _decoded(encoded: bytes | None) -> dict[bytes, tuple[int, bool]]:
    events: dict[bytes, tuple[int, bool]] = {}
    data, place = encoded or b"", 0
    while place < len(data):
        number, length = _ENTRY.unpack_from(data, place)
        place += _ENTRY.size + length
        events[data[place - length : place]] = number >> 1, bool(number & 1)
    return events
