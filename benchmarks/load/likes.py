"""Events of likes, and bodies made of them. Pure."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
import pyarrow as pa

from benchmarks.load import keys

TYPE = "bench"
STRIDE = 7_368_787  # prime: users of an item come in no order
FIRST_AT = 1_700_000_000_000_000  # microseconds since 1970


class Event(NamedTuple):
    """A user likes an item; `at` in microseconds since 1970."""

    item: str
    user: str
    id: str
    at: int


@dataclass
class Likers:
    """Draws likes that nobody has drawn before: each user likes an item once. `users`: how many there are, for each item."""

    items: Sequence[str]
    users: int
    rng: random.Random
    _next: Counter[str] = field(default_factory=Counter)
    _unsent: Counter[str] = field(default_factory=Counter)
    _at: int = FIRST_AT

    def draw(self, count: int) -> list[Event]:
        """So many events, items by Zipf's law. Raises `ValueError` if an item has no users left."""
        found = []
        for item in keys.zipf(self.items, count, self.rng):
            number = self._next[item]
            if number >= self.users:
                raise ValueError(f"all {self.users:,} users like {item}")
            self._next[item] += 1
            self._at += 1
            user = (number) * STRIDE % self.users
            id = UUID(int=self.rng.getrandbits(128), version=4)
            found.append(Event(item, f"u{user}", str(id), self._at))
        return found

    def begin(self, number: int) -> None:
        """So many users like each item already."""
        self._next.update(dict.fromkeys(self.items, number))

    def add(self, others: Likers) -> None:
        """Count what others have drawn of other items."""
        self._next.update(others._next)

    def take_back(self, events: Iterable[Event]) -> None:
        """Do not count these, which nobody has sent. Their users are not drawn again."""
        self._unsent.update(one.item for one in events)

    @property
    def likes(self) -> Counter[str]:
        """How many users like each item by now."""
        return self._next - self._unsent


def json(events: Iterable[Event]) -> bytes:
    """A body of rows."""
    rows = [
        {
            "event_id": one.id,
            "user_id": one.user,
            "item_type": TYPE,
            "item_id": one.item,
            "action": "like",
            "timestamp": datetime.fromtimestamp(one.at / 1e6, UTC).isoformat(),
        }
        for one in events
    ]
    return msgspec.json.encode({"events": rows})


def arrow(events: Sequence[Event]) -> bytes:
    """An Arrow stream; items and actions are dictionary-encoded."""
    count = len(events)
    records = pa.record_batch(
        {
            "event_id": pa.array([one.id for one in events]),
            "user_id": pa.array([one.user for one in events]),
            "item_type": pa.array([TYPE] * count).dictionary_encode(),
            "item_id": pa.array([one.item for one in events]).dictionary_encode(),
            "action": pa.array(["like"] * count).dictionary_encode(),
            "timestamp": pa.array([one.at for one in events], pa.timestamp("us", "UTC")),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, records.schema) as writer:
        writer.write_batch(records)
    data: bytes = sink.getvalue().to_pybytes()
    return data
