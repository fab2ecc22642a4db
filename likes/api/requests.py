"""The form of requests and answers about likes; see `counters.api.requests`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

MOST_ID = 64  # characters of an event id
Action = Literal["like", "unlike"]
EventId = Annotated[str, Meta(max_length=MOST_ID)]
Timestamp = Annotated[datetime, Meta(tz=True)] | int | float


class Event(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A user likes an item, or does no longer. `timestamp`: RFC 3339 with a zone, or seconds since 1970; without it, the
    moment of acceptance. Rules for names are checked once for each distinct one."""

    user_id: str
    item_type: str
    item_id: str
    action: Action
    event_id: EventId | None = None
    timestamp: Timestamp | None = None


class Events(msgspec.Struct, forbid_unknown_fields=True):
    """Events of any users and items, in any order."""

    events: list[Event]


class EventColumns(msgspec.Struct, forbid_unknown_fields=True):
    """Events: the i-th has the i-th element of each column. `event_ids` and `timestamps` may be missing, and so may their
    elements (null)."""

    user_ids: list[str]
    item_types: list[str]
    item_ids: list[str]
    actions: list[Action]
    event_ids: list[EventId | None] = []
    timestamps: list[Timestamp | None] = []


class Body(msgspec.Struct, forbid_unknown_fields=True):
    """A body of either shape (`counters.api.bodies`)."""

    events: list[Event] | UnsetType = UNSET
    user_ids: list[str] | UnsetType = UNSET
    item_types: list[str] | UnsetType = UNSET
    item_ids: list[str] | UnsetType = UNSET
    actions: list[Action] | UnsetType = UNSET
    event_ids: list[EventId | None] | UnsetType = UNSET
    timestamps: list[Timestamp | None] | UnsetType = UNSET


class LikeQueued(msgspec.Struct):
    """A like, or the end of one, that is durable and will be applied. `excess`: later, as its item has too many of them or
    the request has a low priority. `queue` is that of the item."""

    id: str
    type: str
    item: str
    user: str
    liked: bool
    status: Literal["queued", "excess"]
    queue: str


class LikeApplied(msgspec.Struct):
    """A like, or the end of one, that has been applied. `changed`: whether the user's state is another one now. `count`: the
    item's likes, of this `version`.

    These three are null for a repeat of a request first sent without `wait`: its result was not kept.
    """

    id: str
    type: str
    item: str
    user: str
    liked: bool
    status: Literal["applied"]
    queue: str
    changed: bool | None
    count: int | None
    version: int | None


class State(msgspec.Struct):
    """Whether a user likes an item, and since when (null: there is no like). `pending`: the event that says so is accepted, but
    not applied yet on the server that was asked."""

    type: str
    item: str
    user: str
    liked: bool
    since: str | None
    pending: bool


class LikeCount(msgspec.Struct):
    """An item's likes: `count` are applied, and `pending` is what accepted events add to that once they are applied; null if
    too many wait, or if that cannot be told now."""

    type: str
    item: str
    count: int
    pending: int | None
    version: int
    updated_at: str | None
    source: Literal["cache", "replica", "primary"]
    shard: int


class ItemCount(msgspec.Struct, omit_defaults=True):
    """An item's likes, and with `user` whether that user likes it."""

    type: str
    item: str
    count: int
    version: int
    updated_at: str | None
    source: Literal["cache", "replica", "primary"]
    shard: int
    liked: bool | None = None
    since: str | None = None


class ItemCounts(msgspec.Struct):
    """Many items, in the order of the request."""

    results: list[ItemCount]
    next: str | None


class Liker(msgspec.Struct):
    """A user who likes an item, and since when."""

    user: str
    since: str


class Likers(msgspec.Struct):
    """Who likes an item, by `since`, newest first; `next` is the cursor of the next page."""

    results: list[Liker]
    next: str | None


class LikedItem(msgspec.Struct):
    """An item that a user likes, and since when."""

    type: str
    item: str
    since: str


class LikedItems(msgspec.Struct):
    """What a user likes, by `since`, newest first; `next` is the cursor of the next page."""

    results: list[LikedItem]
    next: str | None


class Removal(msgspec.Struct):
    """A user's likes that are removed: those accepted before the request. `total` is how many rows were found, null before;
    `done` how many of them are removed; `detail` what it waits for. `state`: queued, running or done. `user` is null when it is
    done."""

    id: str
    user: str | None
    state: str
    total: int | None
    done: int
    detail: str
    asked_at: str
    ended_at: str | None


class ItemName(msgspec.Struct):
    """An item."""

    type: str
    item: str


class RefusedLikes(msgspec.Struct, omit_defaults=True):
    """An item, or a user, whose events were not accepted, and the limit: `key-rate`: too many of them, and no room in the
    excess queue; `excess`: low priority, and no room there; `backlog`: too much waits in the lane."""

    rule: Literal["key-rate", "excess", "backlog"]
    type: str | None = None
    item: str | None = None
    user: str | None = None


class LikesAccepted(msgspec.Struct, omit_defaults=True):
    """Durable events: how many of them were accepted, of how many items, on how many shards.

    `repeats` of them were known to change nothing and were not written; `id` is null if all were. Those of items in `excess`
    are applied later. Those of the items and users in `refused` were not accepted.
    """

    id: str | None
    accepted: int
    items: int
    shards: int
    repeats: int = 0
    excess: list[ItemName] = []
    refused: list[RefusedLikes] = []
