"""Events in Arrow IPC streams, checked by pyarrow a column at a time. Needs pyarrow (the extra `arrow`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from counters.api import arrow_streams as streams
from counters.api.problems import invalid
from likes import names
from likes.api.bulk import TIMESTAMP_RULE
from likes.api.requests import MOST_ID
from likes.events import NOW, Event, Received, ids_of
from likes.known import Known

_USERS = streams.Names.of(streams.Texts("user_id", names.MAX_NAME, names.NAME_RULE), names.NAME_PATTERN)
_TYPES = streams.Names.of(
    streams.Texts("item_type", names.MAX_TYPE, names.TYPE_RULE), names.TYPE_PATTERN, [names.RESERVED]
)
_ITEMS = streams.Names.of(streams.Texts("item_id", names.MAX_NAME, names.NAME_RULE), names.NAME_PATTERN)
_ACTIONS = streams.Texts("action", len("unlike"), "like or unlike")
_KNOWN = pa.array(["like", "unlike"], pa.string())
_IDS = streams.Texts("event_id", 4 * MOST_ID, f"Expected `str` of length <= {MOST_ID}")
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def _timestamp(kind: Any) -> str:
    return "" if pa.types.is_timestamp(kind) or pa.types.is_null(kind) else "timestamps"


def _text_or_nothing(kind: Any) -> str:
    return "" if pa.types.is_null(kind) else streams.text(kind)


_REQUIRED = dict.fromkeys(("user_id", "item_type", "item_id", "action"), streams.text)
_OPTIONAL = {"event_id": _text_or_nothing, "timestamp": _timestamp}


class _Columns(NamedTuple):
    """Valid columns, each of the same length and without nulls: texts, an action, and microseconds as int64."""

    types: Any
    items: Any
    users: Any
    actions: Any
    ids: Any
    ats: Any

    def prints(self) -> list[bytes]:
        """What identifies each event: all that it says. Only the first and the last part may have a slash."""
        ats = pa.Array.from_buffers(pa.binary(8), len(self.ats), self.ats.buffers(), offset=self.ats.offset)
        texts = [one.cast(pa.binary()) for one in (self.actions, self.types, self.items, self.users, self.ids)]
        found: list[bytes] = pc.binary_join_element_wise(ats.cast(pa.binary()), *texts, b"/").to_pylist()
        return found

    def at(self, places: Sequence[int]) -> _Columns:
        """The columns of some events."""
        chosen = pa.array(places, pa.int64())
        return _Columns(*(column.take(chosen) for column in self))

    def events(self) -> list[Event]:
        """An object for each."""
        columns = (
            pc.binary_join_element_wise(self.types, self.items, "/").to_pylist(),
            self.users.to_pylist(),
            pc.equal(self.actions, "like").to_pylist(),
            self.ats.to_pylist(),
            ids_of(self.ids.to_pylist()),
        )
        return list(map(Event._make, zip(*columns, strict=True)))


def events(body: bytes, known: Known | None = None) -> Received:
    """The events of a stream that `streams.count` has accepted, without those that are `known`. Raises `Problem` 400."""
    found = Received([])
    with streams.batches(body, _REQUIRED, _OPTIONAL) as batches:
        for batch, first in batches:
            found = found.and_more(_received(_columns(batch, first), known))
    return found


def _received(columns: _Columns, known: Known | None) -> Received:
    if known is None:
        return Received(columns.events())
    prints = columns.prints()
    places = known.places_of_unknown(prints)
    repeats = len(prints) - len(places)
    if repeats:
        columns, prints = columns.at(places), [prints[place] for place in places]
    return Received(columns.events(), prints, repeats)


def _columns(batch: Any, first: int) -> _Columns:
    types, items, users = (_names(batch, column, first) for column in (_TYPES, _ITEMS, _USERS))
    return _Columns(types, items, users, _said(batch.column("action"), first), _ids(batch, first), _ats(batch, first))


def _names(batch: Any, column: streams.Names, first: int) -> Any:
    texts = column.texts.validated(batch.column(column.texts.column), first)
    found = column.texts.plain(texts, first)
    if not column.are_in(found):
        column.check(texts, first)
    return found


def _said(actions: Any, first: int) -> Any:
    texts = _ACTIONS.validated(actions, first)
    _ACTIONS.check(streams.of_rows(texts, lambda some: pc.is_in(some.cast(pa.string()), value_set=_KNOWN)), first)
    return _ACTIONS.plain(texts, first)


def _ids(batch: Any, first: int) -> Any:
    if not _has(batch, "event_id"):
        return pa.repeat("", batch.num_rows)
    found = _IDS.plain(_IDS.validated(batch.column("event_id"), first, nullable=True), first)
    _IDS.check(pc.less_equal(pc.utf8_length(found), MOST_ID), first)
    return found.fill_null("")


def _ats(batch: Any, first: int) -> Any:
    if not _has(batch, "timestamp"):
        return pa.repeat(pa.scalar(NOW, pa.int64()), batch.num_rows)
    column = batch.column("timestamp")
    unit, ticks = column.type.unit, column.cast(pa.int64())
    most = (NOW - 1) * _PER_SECOND[unit] // _PER_SECOND["us"]
    good = pc.fill_null(pc.and_(pc.greater_equal(ticks, 0), pc.less_equal(ticks, most)), True)
    if not pc.all(good).as_py():
        raise invalid(streams.at("timestamp", first, pc.invert(good)), TIMESTAMP_RULE)
    microseconds = column.cast(pa.timestamp("us", column.type.tz), safe=False).cast(pa.int64())
    return microseconds.fill_null(NOW)


def _has(batch: Any, column: str) -> bool:
    """Whether a batch has anything in a column that may be missing."""
    return column in batch.schema.names and not pa.types.is_null(batch.schema.field(column).type)
