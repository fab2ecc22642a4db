"""The effect of a run of batches on a shard's counters: operations in, changes and outcomes out. Pure.

Batches come in the journal's order. Each key is handled in one of two ways:

- *added*: only increments, and the row is not needed. Their sum is written as a delta.
- *read*: an operation's result depends on the value (compare-and-set, an awaited increment), or a batch is older than
  the lane's last set, or the sum would overflow. The row is read, each operation is applied to it in turn, and the
  result is written as a value.

Events are no part of a plan. `apply.effects` replaces them by what they add, once that is known.

A set without a conditional operation before it needs no row: later operations are applied to its value. A counter's
version is the position of the batch that last changed it + the index of the write in it (see `intake.journal`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from counters.batch import Batch, Events, Increments, Step
from counters.operations import MAX_VALUE, in_range
from counters.outcome import UNCHANGED, Outcome


class Row(NamedTuple):
    """A counter's row; `set_version` is the version of its last set or reset, 0 if there was none."""

    value: int = 0
    version: int = 0
    set_version: int = 0


class Counted(Step, frozen=True, gc=False):
    """What an event that a client waits for adds to a counter, as an `increment`; 0: it changed nothing. Never encoded."""


class Placed(NamedTuple):
    """A batch at its place in the journal."""

    position: int
    batch: Batch


@dataclass(slots=True)
class Plan:
    """Changes by key: `added` has deltas, `versions` their versions, `put` whole new rows. `last_version` is the newest
    in these batches.

    `read` are the keys whose rows the plan is based on.
    """

    read: Set[str] = frozenset()
    added: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    put: dict[str, Row] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    last_version: int = 0
    last_set_version: int = 0

    @property
    def keys(self) -> Set[str]:
        """Every key that an operation names."""
        return self.added.keys() | self.put.keys() | self.read if self.put or self.read else self.added.keys()

    def overflowing(self) -> set[str]:
        """Keys whose sum does not fit into a delta: their rows must be read."""
        if not self.added or (in_range(max(self.added.values())) and in_range(min(self.added.values()))):
            return set()
        return {key for key, delta in self.added.items() if not in_range(delta)}


def keys_to_read(batches: Sequence[Placed], last_set_version: int, last_version: int = 0) -> set[str]:
    """Keys whose rows the plan needs. The versions are the lane's newest applied ones: of sets, and of all writes."""
    keys: set[str] = set()
    for position, batch in batches:
        for _, operation in batch.segments:
            if operation.needs_row(position, last_set_version, last_version):
                keys.update(operation.keys)
    return keys


def plan(batches: Sequence[Placed], rows: Mapping[str, Row], read: Set[str], last_version: int = MAX_VALUE) -> Plan:
    """Plan the changes of the batches. `rows` has the existing rows of the keys in `read`; `last_version` as in
    `keys_to_read`."""
    planning = Planning(rows, read, last_version)
    for placed in batches:
        planning.take(placed)
    return planning.plan


class _Place(NamedTuple):
    """A write: its batch, its number there, its version, and how many operations it has in this lane."""

    batch: bytes
    number: int
    version: int
    among: int = 1


class Planning:
    """Builds a plan batch by batch, in the journal's order. It is incomplete if there were events.

    Known rows are in `plan.put` or `rows`, mere additions in `plan.added`.
    """

    def __init__(self, rows: Mapping[str, Row], read: Set[str], last_version: int = MAX_VALUE) -> None:
        self.plan, self.complete = Plan(read), True
        self._rows, self._read, self._last_version = rows, read, last_version

    def take(self, placed: Placed) -> None:
        """Add the next batch."""
        position, batch = placed
        newest = position
        for index, operation in batch.segments:
            newest = max(newest, position + index)
            if isinstance(operation, Increments):
                if self._read or self.plan.put:
                    self._take_increments(operation, _Place(batch.id, index, position + index, len(operation.keys)))
                else:
                    _add(self.plan, operation.keys, operation.deltas, position + index)
            elif isinstance(operation, Events):
                self.complete = False
            else:
                self._take_step(operation, _Place(batch.id, index, position + index))
        self.plan.last_version = max(self.plan.last_version, newest)

    def _take_increments(self, operation: Increments, place: _Place) -> None:
        for key, delta in zip(operation.keys, operation.deltas, strict=True):
            if key in self._read or key in self.plan.put:
                self._increment(key, delta, place)
            else:
                _add(self.plan, (key,), (delta,), place.version)

    def _take_step(self, step: Step, place: _Place) -> None:
        row = self._row(step.key)
        if step.if_version is not None and step.if_version != row.version:
            self._report("rejected", step.key, row, place, "version")
        elif isinstance(step, Counted) and not step.operand:
            self._report("applied", step.key, row, place, UNCHANGED)
        elif step.kind == "increment":
            self._increment(step.key, step.operand, place, report=True)
        elif row.set_version < place.version < row.version and place.version <= self._last_version:
            # It is late: the value already contains later increments. (A row's version alone does not tell: a spilled
            # increment raises it by one although it is older.)
            self._report("rejected", step.key, row, place, "late")
        else:
            self._replace(step, row, place)

    def _replace(self, step: Step, row: Row, place: _Place) -> None:
        if place.version >= row.set_version:  # else void: a later set is already applied
            row = self._put(step.key, step.operand, row, place, set_version=place.version)
            self.plan.last_set_version = max(self.plan.last_set_version, place.version)
            if self.plan.added.pop(step.key, None) is not None:  # the set voids earlier additions
                del self.plan.versions[step.key]
        self._report("applied", step.key, row, place)

    def _row(self, key: str) -> Row:
        return self.plan.put.get(key) or self._rows.get(key) or Row()

    def _increment(self, key: str, delta: int, place: _Place, *, report: bool = False) -> None:
        row = self._row(key)
        if place.version >= row.set_version:  # else void: a later set is already applied
            if not in_range(row.value + delta):
                self._report("rejected", key, row, place, "overflow")
                return
            row = self._put(key, row.value + delta, row, place, set_version=row.set_version)
        if report:
            self._report("applied", key, row, place)

    def _put(self, key: str, value: int, row: Row, place: _Place, *, set_version: int) -> Row:
        self.plan.put[key] = Row(value, max(row.version + 1, place.version), set_version)
        return self.plan.put[key]

    def _report(
        self, status: Literal["applied", "rejected"], key: str, row: Row, place: _Place, reason: str | None = None
    ) -> None:
        outcome = Outcome(place.batch, place.number, key, status, row.value, row.version, reason, place.among)
        self.plan.outcomes.append(outcome)


def _add(plan: Plan, keys: Sequence[str], deltas: Sequence[int], version: int) -> None:
    """Fold increments (see `operations`) and keep the newest version of each key, in one loop."""
    added, versions = plan.added, plan.versions
    get = added.get
    for key, delta in zip(keys, deltas, strict=True):
        added[key] = get(key, 0) + delta
        versions[key] = version
