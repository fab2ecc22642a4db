"""The handler of likes: what events do in the transaction of their lane.

It reads the states of the users and items of a window, merges the events into them (`likes.state`), and returns what that
adds to the counts, and the statements that write the states that changed. So the count of an item is the number of its
rows in `user_likes` that are liked (I2). The halves by user are merged into `liked_items` and add to nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg
from django.conf import settings
from prometheus_client import Counter as Metric
from prometheus_client import Histogram

from counters.apply import arrays
from counters.apply.effects import Effects, Statement, Versioned
from counters.apply.plan import Counted
from counters.batch import Events, Increments
from likes.events import MAX_ID_BYTES
from likes.names import COUNTS, LIKERS
from likes.state import State, merged
from sharding.slots import slots_of

LAG = Histogram(
    "tally_likes_copy_lag_seconds",
    "Age of the oldest event in a transaction of the copy by user, from its acceptance to the commit",
    ["shard"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600),
)
EVENTS = Metric(
    "tally_likes_events_total",
    "Events of likes that were applied, late ones and repeats among them",
    ["shard", "action"],
)
# Without it, a plan made while a table is small would read all of it for each row that is looked for, also when it has grown.
PROBES, ANY_SCAN = "SET LOCAL enable_seqscan = off", "SET LOCAL enable_seqscan TO DEFAULT"
_DAY = 86_400_000_000  # microseconds
_Columns = tuple[list[int], list[bool], list[bytes]]  # timestamps, whether liked, ids
_SQL = {path.stem: path.read_text() for path in (Path(__file__).parent / "sql").glob("*.sql")}


def _at(columns: Iterable[Sequence[Any]], places: Sequence[int]) -> list[Any]:
    """Columns with the elements at these places."""
    return [[column[place] for place in places] for column in columns]


class _Events(NamedTuple):
    """Events of one side, in columns. `numbers`: of their operations."""

    keys: list[str]
    others: list[str]
    ats: list[int]
    likeds: list[bool]
    ids: list[bytes]
    versions: list[int]
    numbers: list[int]

    @classmethod
    def none(cls) -> _Events:
        return cls([], [], [], [], [], [], [])

    def add(self, more: _Events) -> None:
        columns: Sequence[list[Any]] = self
        others: Sequence[list[Any]] = more
        for column, some in zip(columns, others, strict=True):
            column.extend(some)

    def at(self, places: Sequence[int]) -> _Events:
        """The events at these places."""
        return _Events(*_at(self, places))

    def sorted(self) -> _Events:
        """As the primary key of the side's table is; those of a pair of user and item in the journal's order."""
        pairs = [f"{key}\n{other}" for key, other in zip(self.keys, self.others, strict=True)]
        return self.at(sorted(range(len(pairs)), key=pairs.__getitem__))

    def starts(self) -> list[int]:
        """Of sorted events, the place of the first of each pair."""
        pairs = zip(self.keys, self.others, [None, *self.keys], [None, *self.others], strict=False)
        return [n for n, (key, other, last, its) in enumerate(pairs) if key != last or other != its]

    def arguments(self) -> dict[str, str]:
        """For the log, beside those of the pairs."""
        return {
            "ats": arrays.integers(self.ats),
            "likeds": arrays.booleans(self.likeds),
            "ids": arrays.byteas(self.ids),
            "positions": arrays.integers(self.versions),
        }


class _Pairs(NamedTuple):
    """Items and users, and the slots of those that place them, in columns."""

    items: list[str]
    users: list[str]
    slots: list[int]

    def at(self, places: Sequence[int]) -> _Pairs:
        return _Pairs(*_at(self, places))

    def arguments(self) -> dict[str, str]:
        return {
            "items": arrays.texts(self.items),
            "users": arrays.texts(self.users),
            "slots": arrays.integers(self.slots),
        }


class _States(NamedTuple):
    """States of pairs (`likes.state.State`), in columns."""

    ats: list[int]
    likeds: list[bool]
    ids: list[bytes]
    earliers: list[bytes | None]
    sinces: list[int | None]

    @classmethod
    def of(cls, events: _Events) -> _States:
        """The states that events make of nothing."""
        sinces = [None if liked else version for liked, version in zip(events.likeds, events.versions, strict=True)]
        return cls([*events.ats], [*events.likeds], [*events.ids], [None] * len(sinces), sinces)

    def put(self, place: int, state: State) -> None:
        columns: Sequence[list[Any]] = self
        for column, value in zip(columns, state, strict=True):
            column[place] = value

    def at(self, places: Sequence[int]) -> _States:
        return _States(*_at(self, places))

    def arguments(self) -> dict[str, str]:
        return {
            "ats": arrays.integers(self.ats),
            "likeds": arrays.booleans(self.likeds),
            "ids": arrays.byteas(self.ids),
            "earliers": arrays.byteas(self.earliers),
            "sinces": arrays.optional_integers(self.sinces),
        }


class _Merged(NamedTuple):
    """What one side of a window comes to. `written` and `logged`: the arguments of the statements that write the states that
    changed, and log the events that were not known; empty if there are none. `others`: of events that may be no new likes,
    the operation, the item, and what to add to a like for what the event does to the count."""

    slots: Sequence[int]
    written: Mapping[str, str]
    logged: Mapping[str, str]
    others: Sequence[tuple[int, str, int]]


_NOTHING = _Merged((), {}, {}, ())


class Likes:
    """Applies the events of likes."""

    def apply(self, conn: psycopg.Connection[Any], found: Sequence[Versioned]) -> Effects:
        """See `effects.Handler`."""
        columns = [_columns(one.events) for one in found]
        by_user, by_item = _sides(found, columns)
        conn.execute(PROBES)
        liked = _merged(conn, "read_liked", by_user, _of_likers)
        likers = _merged(conn, "read_likes", by_item, _of_counts)
        conn.execute(ANY_SCAN)
        statements = [
            Statement(_SQL[name], arguments)
            for name, arguments in (
                ("write_liked", liked.written),
                ("write_likes", likers.written),
                ("log", likers.logged),
            )
            if arguments
        ]
        return Effects(_operations(found, columns, likers.others), statements, [*liked.slots, *likers.slots])

    def pinned(self, one: Versioned) -> Events:
        """See `effects.Handler`: the moments stay what they are."""
        ats, *columns = _columns(one.events)
        return msgspec.structs.replace(one.events, columns=[[min(at, one.version) for at in ats], *columns])

    def committed(self, shard: int, found: Sequence[Versioned], now: int) -> None:
        """See `effects.Handler`."""
        by_user = (version for version, events in found if any(key.startswith(LIKERS) for key in events.keys))
        if (oldest := next(by_user, None)) is not None:
            LAG.labels(shard).observe(max(0, now - oldest) / 1e6)
        likes = unlikes = 0
        for _, events in found:
            said = [liked for key, liked in zip(events.keys, events.columns[1], strict=True) if key.startswith(COUNTS)]
            likes += sum(said)
            unlikes += len(said) - sum(said)
        EVENTS.labels(shard, "like").inc(likes)
        EVENTS.labels(shard, "unlike").inc(unlikes)


def _columns(events: Events) -> _Columns:
    """The timestamps, what is said and the ids of events. Raises `ValueError`."""
    try:
        ats, likeds, ids = events.columns
    except ValueError:
        raise ValueError(f"events of likes have 3 columns, not {len(events.columns)}") from None
    for column, kind in ((ats, int), (likeds, bool), (ids, bytes)):
        if not set(map(type, column)) <= {kind}:
            raise ValueError(f"a column of likes has something else than {kind.__name__}")
    if ats and (min(ats) < 0 or max(map(len, ids)) > MAX_ID_BYTES):
        raise ValueError("a timestamp before 1970, or an id that is too long")
    return ats, likeds, ids


def _sides(found: Sequence[Versioned], columns: Sequence[_Columns]) -> tuple[_Events, _Events]:
    """The events by user and those by item."""
    by_user, by_item = sides = _Events.none(), _Events.none()
    for number, ((version, events), (ats, likeds, ids)) in enumerate(zip(found, columns, strict=True)):
        count = len(ats)
        moments = [min(at, version) for at in ats]
        whole = _Events(events.keys, events.others, moments, likeds, ids, [version] * count, [number] * count)
        are_counts = [key.startswith(COUNTS) for key in events.keys]
        for side, wanted in zip(sides, (False, True), strict=True):
            if (size := are_counts.count(wanted)) == count:
                side.add(whole)
            elif size:
                side.add(whole.at([place for place, is_count in enumerate(are_counts) if is_count is wanted]))
    return by_user.sorted(), by_item.sorted()


def _of_likers(events: _Events, slots: list[int]) -> _Pairs:
    return _Pairs([one[len(COUNTS) :] for one in events.others], [one[len(LIKERS) :] for one in events.keys], slots)


def _of_counts(events: _Events, slots: list[int]) -> _Pairs:
    return _Pairs([one[len(COUNTS) :] for one in events.keys], [one[len(LIKERS) :] for one in events.others], slots)


def _merged(
    conn: psycopg.Connection[Any], read: str, events: _Events, pairs_of: Callable[[_Events, list[int]], _Pairs]
) -> _Merged:
    """Merge the events of one side into the states of their pairs. Nearly all are new likes: these become states column by
    column, and `likes.state.merged` is asked for the others."""
    if not events.keys:
        return _NOTHING
    starts = events.starts()
    ends = [*starts[1:], len(events.keys)]
    first = events if len(starts) == len(events.keys) else events.at(starts)
    pairs = pairs_of(first, slots_of(first.keys))
    arguments = pairs.arguments()
    known = {place: State(*row) for place, *row in conn.execute(_SQL[read], arguments, binary=True)}
    states = _States.of(first)
    same, repeats, others = set[int](), set[int](), list[tuple[int, str, int]]()
    retention = settings.TALLY.retention_days * _DAY
    met = known.keys() if first is events else known.keys() | {n for n, end in enumerate(ends) if end - starts[n] > 1}
    for place in sorted(met):
        before = state = known.get(place)
        for n in range(starts[place], ends[place]):
            was_liked = state is not None and state.liked
            after = merged(state, events.ats[n], events.likeds[n], events.ids[n], events.versions[n], retention)
            if after is state:
                repeats.add(n)
            others.append((events.numbers[n], pairs.items[place], after.liked - was_liked - events.likeds[n]))
            state = after
        if state is before or state is None:
            same.add(place)
        else:
            states.put(place, state)
    written = arguments | states.arguments()
    if same:
        left = [place for place in range(len(starts)) if place not in same]
        written = pairs.at(left).arguments() | states.at(left).arguments() if left else {}
    new = events if not repeats else events.at([n for n in range(len(events.keys)) if n not in repeats])
    if new is not first:
        arguments = pairs_of(new, slots_of(new.keys)).arguments() if new.keys else {}
    return _Merged(pairs.slots, written, arguments and arguments | new.arguments(), others)


def _operations(
    found: Sequence[Versioned], columns: Sequence[_Columns], others: Sequence[tuple[int, str, int]]
) -> list[Increments | Counted]:
    """What each operation adds to the counts: its likes, but for what `others` say."""
    sums = [
        Counter([key for key, liked in zip(events.keys, likeds, strict=True) if liked and key.startswith(COUNTS)])
        for (_, events), (_, likeds, _) in zip(found, columns, strict=True)
    ]
    for number, item, delta in others:
        sums[number][COUNTS + item] += delta
    return [_operation(one.events, added) for one, added in zip(found, sums, strict=True)]


def _operation(events: Events, added: Counter[str]) -> Increments | Counted:
    if events.awaited and events.keys[0].startswith(COUNTS):
        return Counted(events.keys[0], "increment", added[events.keys[0]])
    changed = {key: delta for key, delta in added.items() if delta}
    return Increments([*changed], [*changed.values()])
