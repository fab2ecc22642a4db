"""Likes as the shards have them, and writes put into the journal past the API."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from counters import batch
from counters.intake import dispatch
from counters.intake.append import Flush, Payload, append
from counters.intake.writes import Write
from likes.events import Event, folded
from likes.names import count_key
from sharding import topology
from sharding.lanes import Lane
from tests.support.cluster import eventually
from tests.support.journal import is_drained
from tests.support.shards import rows

SHARDS = (0, 1)


class Found(NamedTuple):
    """What the shards have of some items: (item, user) → (liked, moment, id) by item and by user, and counts by item."""

    by_item: dict[tuple[str, str], tuple[bool, int, bytes]]
    by_user: dict[tuple[str, str], tuple[bool, int, bytes]]
    counts: dict[str, int]

    def check(self, items: Iterable[str]) -> None:
        """The count of an item is the number of its likers, in both copies."""
        assert self.by_item == self.by_user
        liked = dict.fromkeys(items, 0)
        for (item, _), (is_liked, _, _) in self.by_item.items():
            liked[item] += is_liked
        assert {item: self.counts.get(item, 0) for item in liked} == liked


class Model:
    """Each event by itself. Of those with the same id the oldest counts, then the newest decides."""

    def __init__(self) -> None:
        self._events: dict[tuple[str, str], dict[bytes, tuple[int, bool]]] = {}

    def take(self, events: Iterable[Event], version: int) -> None:
        """The events of one write, which has each of them once (`likes.events.folded`)."""
        for event in folded(events):
            before = self._events.setdefault((event.item, event.user), {})
            one = (min(event.at, version), event.liked)
            known = before.get(event.id, one)
            before[event.id] = min(known, one) if event.id else max(known, one)

    @property
    def states(self) -> dict[tuple[str, str], tuple[bool, int, bytes]]:
        newest = {
            pair: max((at, id, liked) for id, (at, liked) in events.items()) for pair, events in self._events.items()
        }
        return {pair: (liked, at, id) for pair, (at, id, liked) in newest.items()}


def found(items: Iterable[str]) -> Found:
    """What the primaries have of these items."""
    items = list(items)
    both: list[dict[tuple[str, str], tuple[bool, int, bytes]]] = []
    for table in ("user_likes", "liked_items"):
        query = f"SELECT item, user_id, liked, at, event, since FROM {table} WHERE item = ANY(%s)"
        there = _everywhere(query, items)
        assert not [row for row in there if row[2] and row[5] is not None and row[5] >= row[3]], (
            "since is NULL or before"
        )
        both.append({(one[0], one[1]): (one[2], one[3], bytes(one[4])) for one in there})
    keys = {count_key(item): item for item in items}
    counts = _everywhere("SELECT key, value FROM counter WHERE key = ANY(%s)", list(keys))
    return Found(both[0], both[1], {keys[key]: value for key, value in counts})


def _everywhere(query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    return [row for shard in SHARDS for row in rows(shard, query, *arguments)]


def drained() -> None:
    """Wait until the shards have applied and replicated all that is in their journals."""
    eventually(lambda: all(is_drained(shard) for shard in SHARDS), 60)


def submit(
    *writes: Write,
    id: UUID | None = None,
    place: Callable[[Lane], Lane] = lambda lane: lane,
    reply_to: str | None = None,
) -> int:
    """One flush of these writes, as the intake makes it; its position. `place`: the queue that a lane's part goes to."""
    id = id or uuid7()
    segments: dict[Lane, list[Any]] = {}
    for index, write in enumerate(writes):
        for lane, operation in write.operations.items():
            segments.setdefault(place(lane), []).append((index, operation))
    payloads = {
        lane: Payload(batch.encode(id, parts, [], reply_to), reply_to is not None) for lane, parts in segments.items()
    }
    appended = append(Flush(id, dict(sorted(payloads.items())), len(writes), {}, topology.current().version))
    for lane in appended.unattended:
        dispatch.send(lane)
    return appended.position
