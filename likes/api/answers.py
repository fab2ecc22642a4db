"""The answers of the calls on likes, shared by the fast path and the views; see `counters.api.answers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from counters.api import answers
from counters.api.answers import Answer
from counters.intake import dispatch
from counters.intake.writes import Accepted
from counters.outcome import Outcome
from counters.reading.reads import Counter
from likes.events import Event
from likes.names import count_key, is_count, item_of_count, user_of_liker
from likes.reading import Pair, Place
from likes.recent import OwnState
from likes.service import Taken, left
from sharding import topology
from sharding.lanes import EXCESS, Lane


def like(accepted: Accepted, event: Event, outcome: Outcome | None = None) -> Answer:
    """A like, or the end of one: 200 with its outcome if known, else 202. Raises `Problem` if it was rejected."""
    lane = _lane_of(accepted, event.item)
    status = "excess" if lane.queue == EXCESS else "queued"
    data = {"id": str(accepted.id), **_named(event.item), "user": event.user, "liked": event.liked}
    queue = dispatch.lane_queue(lane)
    if outcome is None:
        return Answer({**data, "status": status, "queue": queue}, 202)
    if outcome.status == "rejected":
        raise answers.rejection(outcome, accepted.id)
    known = outcome.version is not None
    effect = {"changed": outcome.changed if known else None, "count": outcome.value, "version": outcome.version}
    return Answer({**data, "status": "applied", "queue": queue, **effect})


def _lane_of(accepted: Accepted, item: str) -> Lane:
    """The lane of a write that has the item's count; the other one has the user's likes."""
    lanes, (shard, number, _) = accepted.id.lanes, topology.current().lane_of(count_key(item))
    return next((lane for lane in lanes if (lane.shard, lane.number) == (shard, number)), lanes[0])


def events(taken: Taken) -> Answer:
    """202: how many events of how many items were accepted; what went to the excess queue, and what was refused."""
    written, repeats, accepted = taken
    told: dict[str, Any] = {"repeats": repeats} if repeats else {}
    if accepted is None:
        return Answer({"id": None, "accepted": repeats, "items": 0, "shards": 0, **told}, 202)
    remaining = left(written, accepted)
    items = dict.fromkeys(event.item for event in remaining)
    excess = [item_of_count(key) for key in accepted.shed.excess]
    if all(lane.queue == EXCESS for lane in accepted.id.lanes) and not excess:
        excess = list(items)
    refused = [{"rule": rule, **_of_key(key)} for rule, keys in accepted.shed.refused.items() for key in keys]
    data = {
        "id": str(accepted.id),
        "accepted": len(remaining) + repeats,
        "items": len(items),
        "shards": len(accepted.id.shards),
        **told,
    }
    if excess:
        data["excess"] = [_named(item) for item in excess]
    if refused:
        data["refused"] = refused
    return Answer(data, 202)


def _of_key(key: str) -> dict[str, str]:
    return _named(item_of_count(key)) if is_count(key) else {"user": user_of_liker(key)}


def state(pair: Pair, found: OwnState) -> Answer:
    """Whether a user likes an item."""
    return Answer({**_named(pair.item), "user": pair.user, **_state(found), "pending": found.pending})


def _state(found: OwnState) -> dict[str, Any]:
    return {"liked": found.liked, "since": answers.moment(found.since) if found.liked else None}


def count(found: list[Counter], pending: Sequence[int | None]) -> Answer:
    """An item's likes, and what is pending."""
    (counter,) = found
    shown = _count(counter)
    data = {name: shown[name] for name in ("type", "item", "count")} | {"pending": pending[0]} | shown
    return Answer(data, headers={"ETag": answers.etag(counter.version)})


def counts(found: Sequence[Counter], states: Sequence[OwnState] = ()) -> Answer:
    """Many items, as the only page, and what a user is to each."""
    shown = [_count(counter) for counter in found]
    for data, one in zip(shown, states, strict=False):
        data.update(_state(one))
    return Answer({"results": shown, "next": None})


def _count(counter: Counter) -> dict[str, Any]:
    shown = answers.shown(counter)
    del shown["key"]
    return {**_named(item_of_count(counter.key)), "count": shown.pop("value"), **shown}


def liker(place: Place) -> dict[str, str]:
    """A user who likes an item."""
    return {"user": place.name, "since": answers.moment(place.at)}


def liked(place: Place) -> dict[str, str]:
    """An item that a user likes."""
    return {**_named(place.name), "since": answers.moment(place.at)}


def _named(item: str) -> dict[str, str]:
    type_, _, name = item.partition("/")
    return {"type": type_, "item": name}
