"""What clients remember, and what must be true of it at the end.

The invariant of the bench: for every key, counted == `counts_of(all clients)`.

- A *shared* key only takes increments, from anybody: its count is the sum of the acknowledged deltas, in whatever
  order.
- An *owned* key takes sets, resets and compare-and-sets too, from one client that waits for each answer before the next
  write. So the order is known, and with it each value, each version that must match, and each operation that must be
  rejected (`Owned`).
- A *loose* increment of an owned key was not waited for. Where limits are small it may be spilled, and be counted after
  what its owner did later. There the owner finds out that it was counted, or sets the key, before the next operation whose
  result depends on it. One that does not fit is rejected, or it is void because a later set was applied first. (It may have
  been rejected by a primary that was lost with its last commits.)
- A *favour* is an increment of an owned key by another client. While favours are out the owner leaves the key alone,
  and then sets it: the journal has them before the set, so they are void.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from benchmarks.chaos.entries import Entries
from benchmarks.chaos.expected_likes import ExpectedLikes

MAX_VALUE = 2**63 - 1


@dataclass(slots=True, eq=False)
class Favour:
    """An increment that another client must make."""

    key: str
    delta: int
    done: bool = False


@dataclass(slots=True, eq=False)
class Owned:
    """The expected state of a key that one client owns.

    `version` is the newest that an answer had; `told`: nothing has changed since that answer. `loose`: ids of increments
    that may not have been counted yet. `unfit`: those since the last set that do not fit and were not waited for.
    """

    key: str
    value: int = 0
    version: int = 0
    told: bool = True
    favours: list[Favour] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)

    def fits(self, delta: int) -> bool:
        """Whether an increment is applied; else it is rejected as an overflow."""
        return self.value + delta <= MAX_VALUE

    def changed(self, value: int, version: int | None) -> None:
        """Record an applied or accepted write of the owner; `version` is None if its answer had none."""
        self.value, self.told = value, version is not None
        self.version = version or self.version
        self.favours = []

    @property
    def lent(self) -> bool:
        """Whether favours were asked for; then the owner's next write must be a set."""
        return bool(self.favours)

    @property
    def due(self) -> int:
        """The count at the end, with the favours that were done since."""
        return self.value + sum(favour.delta for favour in self.favours if favour.done)


class Waited(NamedTuple):
    """An increment that was answered with its result."""

    key: str
    version: int
    value: int
    delta: int
    id: str


@dataclass(slots=True)
class ExpectedCounts:
    """What one client remembers. Only that client writes here."""

    added: Counter[str] = field(default_factory=Counter)
    owned: dict[str, Owned] = field(default_factory=dict)
    entries: Entries = field(default_factory=Entries)
    likes: ExpectedLikes = field(default_factory=ExpectedLikes)
    waited: list[Waited] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)  # write → key
    voidable: dict[str, int] = field(default_factory=dict)  # those of them that a set may void first → its version
    spilled: int = 0  # writes of which a part was spilled to an excess queue
    refusals: Counter[str] = field(default_factory=Counter)  # attempts, and counters of bulk writes, by reason
    complaints: list[str] = field(default_factory=list)
    repeats: int = 0
    retries: int = 0
    refused: int = 0


def counts_of(clients: Iterable[ExpectedCounts]) -> dict[str, int]:
    """The count that each key must have."""
    counts: Counter[str] = Counter()
    for one in clients:
        counts.update(one.added)
        for owned in one.owned.values():
            counts[owned.key] += owned.due
    return dict(counts)


def out_of_order(waited: Iterable[Waited], totals: Mapping[str, int]) -> list[str]:
    """Return what is wrong with the results of waited increments, for keys that take no other operations.

    In version order, each value exceeds the one before by at least its delta; by exactly its delta if no result is missing
    (the deltas add up to the key's total).
    """
    by_key: dict[str, list[Waited]] = {}
    for one in waited:
        by_key.setdefault(one.key, []).append(one)
    wrong = []
    for key, results in by_key.items():
        results.sort(key=lambda one: one.version)
        complete = sum(one.delta for one in results) == totals.get(key)
        value, version = 0, 0
        for one in results:
            step = one.value - value
            if one.version <= version or step < one.delta or (complete and step != one.delta):
                wrong.append(
                    f"{key}: write {one.id} was told value {one.value} version {one.version} after {value} version {version}"
                )
            value, version = one.value, one.version
    return wrong
