"""What clients remember of likes, and who must like what at the end. Pure.

The newest event of a user and an item decides, whoever sent it, in whatever order and however often. Its place is its moment
and then its id (`Place`).

- *Shared* users are anybody's. Their events state a moment long past, so nothing else decides their order: the newest of all
  acknowledged events.
- An *own* user belongs to one client, which waits for each answer before the next write. So the order is known of writes
  that state no moment, or one that is still to come: each is newer than all before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

Place = tuple[int, bytes]
Pair = tuple[str, str]  # item, user

_ACCEPTED = 2**60  # after every stated moment: of writes whose moment is when they were accepted
MICROSECONDS = 1_000_000


class Event(NamedTuple):
    """`at`: the stated moment, in seconds since 1970. An item is its type and its name."""

    item: str
    user: str
    liked: bool
    at: int
    id: str

    @property
    def pair(self) -> Pair:
        return self.item, self.user

    @property
    def place(self) -> Place:
        """Its place among the events of its pair, if the stated moment is past."""
        return self.at * MICROSECONDS, bytes_of(self.id)


def bytes_of(id: str) -> bytes:
    """An event id as events are ordered by it: the bytes of a UUID, or the text."""
    try:
        return UUID(id).bytes if len(id) == 36 else id.encode()
    except ValueError:
        return id.encode()


@dataclass(slots=True)
class ExpectedLikes:
    """What one client remembers: the newest event of each pair. Only that client writes here."""

    newest: dict[Pair, tuple[Place, bool]] = field(default_factory=dict)
    acknowledged: int = 0
    _accepted: int = _ACCEPTED

    def stated(self, event: Event) -> None:
        """An event of a moment past was acknowledged."""
        self.acknowledged += 1
        found = self.newest.get(event.pair)
        if found is None or found[0] < event.place:
            self.newest[event.pair] = event.place, event.liked

    def accepted(self, pair: Pair, *, liked: bool) -> bool:
        """A write on an own user's pair was acknowledged that is newer than all before. Returns whether that changed
        anything."""
        self.acknowledged += 1
        changed = self.liked(pair) != liked
        self._accepted += 1
        self.newest[pair] = (self._accepted, b""), liked
        return changed

    def liked(self, pair: Pair) -> bool:
        """Whether an own user likes an item."""
        return pair in self.newest and self.newest[pair][1]


def likes_of(clients: Iterable[ExpectedLikes]) -> dict[Pair, bool]:
    """Whether each user must like each item, of every pair that has had an event."""
    found: dict[Pair, tuple[Place, bool]] = {}
    for one in clients:
        for pair, newest in one.newest.items():
            found[pair] = max(newest, found.get(pair, newest))
    return {pair: liked for pair, (_, liked) in found.items()}


def counts_of(likes: dict[Pair, bool]) -> dict[str, int]:
    """The number of likers of each item."""
    counts = Counter({item: 0 for item, _ in likes})
    counts.update(item for (item, _), liked in likes.items() if liked)
    return dict(counts)
