"""Bodies with many events, in one of several formats (`counters.api.bodies`), decoded and checked. No I/O, no request
object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import NamedTuple

from counters.api import bodies
from counters.api.bodies import Form
from counters.api.media import ARROW
from counters.api.problems import invalid
from likes import names
from likes.api import requests
from likes.api.requests import Action, Timestamp
from likes.events import NOW, Event, Received, ids_of
from likes.known import Known

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
TIMESTAMP_RULE = "from 1970 to 2255: RFC 3339 with a zone, or seconds since 1970"


def prepare() -> None:
    """Load pyarrow, if installed, before a request needs it."""
    if bodies.HAS_PYARROW:
        import_module("likes.api.arrow")


def decode(media_type: str, body: bytes, known: Known | None = None) -> Received:
    """The events in a body, in their order; of an Arrow stream without those that are `known`. Raises as `Form.decode`."""
    if known is not None and media_type == ARROW and bodies.HAS_PYARROW:
        return _arrow(body, known)
    return _FORM.decode(media_type, body)


class _Places(NamedTuple):
    """How problems name the i-th element of a column: `events[{}].user_id`, or `user_ids[{}]`."""

    user: str
    type: str
    item: str
    timestamp: str


_ROWS = _Places(*(f"events[{{}}].{name}" for name in ("user_id", "item_type", "item_id", "timestamp")))
_COLUMNS = _Places(*(f"{name}[{{}}]" for name in ("user_ids", "item_types", "item_ids", "timestamps")))


def _rows(rows: list[requests.Event]) -> Received:
    return _events(
        _ROWS,
        [one.user_id for one in rows],
        [one.item_type for one in rows],
        [one.item_id for one in rows],
        [one.action for one in rows],
        [one.event_id for one in rows],
        [one.timestamp for one in rows],
    )


def _columns(  # noqa: PLR0913, PLR0917 - the columns
    users: list[str],
    types: list[str],
    items: list[str],
    actions: list[Action],
    ids: list[str | None] | None,
    timestamps: list[Timestamp | None] | None,
) -> Received:
    nothing = [None] * len(users)
    return _events(_COLUMNS, users, types, items, actions, ids or nothing, timestamps or nothing)


def _events(  # noqa: PLR0913, PLR0917 - the columns
    places: _Places,
    users: list[str],
    types: list[str],
    items: list[str],
    actions: list[Action],
    ids: Sequence[str | None],
    timestamps: Sequence[Timestamp | None],
) -> Received:
    _check(users, names.first_bad_name, places.user, names.NAME_RULE)
    _check(types, names.first_bad_type, places.type, names.TYPE_RULE)
    _check(items, names.first_bad_name, places.item, names.NAME_RULE)
    ats = [NOW if one is None else _microseconds(one) for one in timestamps]
    if min(ats) < 0 or max(ats) > NOW:
        place = next(place for place, at in enumerate(ats) if not 0 <= at <= NOW)
        raise invalid(places.timestamp.format(place), TIMESTAMP_RULE)
    columns = zip(types, items, users, actions, ats, ids_of([id or "" for id in ids]), strict=True)
    return Received(
        [Event(f"{type_}/{item}", user, action == "like", at, id) for type_, item, user, action, at, id in columns]
    )


def _check(texts: list[str], first_bad: Callable[[set[str]], str | None], place: str, rule: str) -> None:
    """Look at each distinct text once. Raises `Problem` 400 for the first that is bad."""
    if first_bad(set(texts)) is not None:
        raise invalid(place.format(next(n for n, text in enumerate(texts) if first_bad({text}) is not None)), rule)


def _microseconds(timestamp: Timestamp) -> int:
    """Since 1970; -1 for what is no moment, or one that has no place (`NOW` stands for no timestamp)."""
    if isinstance(timestamp, datetime):
        return _bounded((timestamp - _EPOCH) // _MICROSECOND)
    try:
        return _bounded(round(timestamp * 1_000_000))
    except (ValueError, OverflowError):  # not a number, infinite
        return -1


def _bounded(microseconds: int) -> int:
    return microseconds if microseconds < NOW else -1


def _arrow(body: bytes, known: Known | None = None) -> Received:
    from counters.api import arrow_streams  # noqa: PLC0415 - see `prepare`
    from likes.api import arrow  # noqa: PLC0415

    bodies.check_count("events", arrow_streams.count(body), "user_id")
    return arrow.events(body, known)


_FORM: Form[requests.Event, Received] = Form(
    "events",
    requests.Event,
    requests.Body,
    ("user_ids", "item_types", "item_ids", "actions"),
    of_rows=_rows,
    of_columns=_columns,
    of_arrow=_arrow,
    optional=("event_ids", "timestamps"),
)
