"""Admission: what becomes of a write's increments when limits are reached. Pure.

    rate of a key ─┬─ within TALLY_KEY_RATE: the usual way (the lane's fresh queue)
                   ├─ above it: the excess queue of its lane, as long as the shard's excess queues have room
                   └─ above that: refused
    backlog of a lane full: all that the write has for this lane is refused

`lua/append.lua` compares a flush with the limits, and with what all processes have appended. If one would be exceeded,
it appends nothing and tells what it saw (`Seen`); then `split` decides for one write after another, and the flush is
tried again. So the limits are exact, and a flush that is within them costs no further round trip.

Only increments that no client waits for are spilled, each key of a write as a whole. What counts is the number of
increments, whatever their deltas.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

import msgspec

from sharding.lanes import EXCESS, Lane

Rule = Literal["key-rate", "excess", "backlog"]
RULES: dict[Rule, str] = {
    "key-rate": "more increments than a counter may have in a while, and its shard's excess queue is full",
    "excess": "low priority, and the shard's excess queue is full",
    "backlog": "its lane has more increments waiting than it may have",
}


class Limits(msgspec.Struct, frozen=True, dict=True):
    """`rate`: increments of a key in `window` seconds; `room`: increments in a shard's excess queues; the rest: what may
    wait in a lane. 0 is no limit, but for `room`."""

    rate: int = 0
    window: float = 10.0
    room: int = 0
    backlog: int = 0
    backlog_bytes: int = 0

    @cached_property
    def arguments(self) -> tuple[int, ...]:
        """As `lua/append.lua` takes them."""
        return self.backlog, self.backlog_bytes, self.room, self.rate, int(self.window * 1e6)

    @property
    def quantum(self) -> int:
        """How many increments of a key a process may have before it tells the others: at most a thousandth of the rate,
        so that calm keys cost no look-up and small rates are exact."""
        return max(1, min(100, self.rate // 1000))

    @property
    def least(self) -> int:
        """How often a key must occur in a bulk request to be counted; at most a ten thousandth of the rate."""
        return max(1, min(10, self.rate // 10_000))


NONE = Limits()


class Seen(NamedTuple):
    """What the limits were compared with: increments by key that counts, lanes whose backlog is full, increments in the
    excess queues by shard."""

    used: dict[str, int]
    full: set[Lane]
    excess: dict[int, int]

    def after(self, earlier: Seen) -> Seen:
        """What is known after both looks."""
        return Seen(earlier.used | self.used, earlier.full | self.full, earlier.excess | self.excess)


class Shed(msgspec.Struct, frozen=True, omit_defaults=True):
    """Keys of a write that went to the excess queue, and those that were refused, by rule."""

    excess: tuple[str, ...] = ()
    refused: dict[Rule, tuple[str, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self.excess or self.refused)


NOTHING_SHED = Shed()


class Limited(Exception):
    """Nothing of a write was accepted. `refused` are its keys by rule."""

    def __init__(self, refused: Mapping[Rule, tuple[str, ...]]) -> None:
        super().__init__("a limit was reached; nothing of this write was accepted")
        self.refused = refused


class Part(Protocol):
    """What `split` needs of a write: its increments by lane, and those of keys that count."""

    @property
    def increments(self) -> Mapping[Lane, int]: ...
    @property
    def counts(self) -> Mapping[str, int]: ...


class Split(NamedTuple):
    """What becomes of a write: keys that go to the excess queue, keys that are refused, lanes that take nothing."""

    excess: set[str]
    refused: set[str]
    full: dict[Lane, Rule]

    @property
    def changes(self) -> bool:
        """Whether anything does not go the way that the write was built for."""
        return bool(self.excess or self.refused or self.full)


class Admission:
    """Decides on the writes of one flush, in their order."""

    def __init__(self, limits: Limits, seen: Seen, untold: Mapping[str, int]) -> None:
        """`untold`: increments of this process that the others do not know of, by key."""
        self._limits, self._full = limits, seen.full
        self._used = {key: used + untold.get(key, 0) for key, used in seen.used.items()}
        self._excess = defaultdict(int, seen.excess)

    def split(self, write: Part, lane_of: Callable[[str], Lane]) -> Split:
        """Decide on a write; later ones find less room."""
        found = Split(set(), set(), {})
        for lane, increments in write.increments.items():
            if lane in self._full:
                found.full[lane] = "backlog"
            elif lane.queue == EXCESS and not self._takes(lane.shard, increments):
                found.full[lane] = "excess"
        for key, count in write.counts.items():
            lane = lane_of(key)
            if key not in self._used or lane in found.full:
                continue
            if self._used[key] + count <= self._limits.rate:
                self._used[key] += count
            elif self._takes(lane.shard, count):
                found.excess.add(key)
            else:
                found.refused.add(key)
        return found

    def _takes(self, shard: int, increments: int) -> bool:
        """Whether the excess queues of a shard have room for so many; then they are taken."""
        if self._excess[shard] + increments > self._limits.room:
            return False
        self._excess[shard] += increments
        return True
