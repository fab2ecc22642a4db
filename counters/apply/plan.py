"""What a run of batches does to the counters of a shard: operations in, changes and outcomes out. Pure.

Batches come in the journal's order. Each key takes one of two ways:

- *added*: only increments, and no reason to look at the row. Their sum goes down as a delta.
- *read*: some operation's result depends on the value (compare-and-set, a waited increment), or a batch is older than the shard's last
  set, or the sum would overflow. The row is read, each operation is applied to it in turn, and the result is written as a value.

A set that nothing conditional precedes needs no row: it and what follows fold onto its base.
Version of a counter: position of the batch that changed it last + index of the write in it (see `intake.journal`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from counters.intake.batch import Batch, Increments, Step
from counters.intake.outcomes import Outcome
from counters.operations import fold, in_range


class Row(NamedTuple):
    """A counter as the shard has it; `set_version` is the version of its last set or reset, 0 if there was none."""

    value: int = 0
    version: int = 0
    set_version: int = 0


class Placed(NamedTuple):
    """A batch at its place in the journal."""

    position: int
    batch: Batch


@dataclass(slots=True)
class Plan:
    """Changes by key: `added` is (delta, version), `put` the whole new row. `last_version` is the newest in these batches."""

    added: dict[str, tuple[int, int]] = field(default_factory=dict)
    put: dict[str, Row] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    last_version: int = 0
    last_set_version: int = 0


def keys_to_read(batches: Sequence[Placed], last_set_version: int) -> set[str]:
    """Keys whose rows the plan needs: see above. `last_set_version`: of the newest set that this shard has applied."""
    keys: set[str] = set()
    for position, batch in batches:
        late = position < last_set_version
        for _, operation in batch.segments:
            if isinstance(operation, Increments):
                if late:
                    keys.update(operation.keys)
            elif operation.reads or late:
                keys.add(operation.key)
    return keys


def plan(batches: Sequence[Placed], rows: Mapping[str, Row], read: Set[str]) -> Plan:
    """Changes that the batches make. `rows` has the rows of the keys in `read` that exist."""
    result = Plan()
    deltas: dict[str, int] = {}
    versions: dict[str, int] = {}
    for position, batch in batches:
        for index, operation in batch.segments:
            version = position + index
            if isinstance(operation, Step):
                if deltas.pop(operation.key, None) is not None:  # not read, so it is unconditional: what was added before is void
                    del versions[operation.key]
                _take_step(result, rows, operation, batch, index, version)
                continue
            if read or result.put:
                operation = _take_known(result, rows, operation, read, batch, index, version)
            fold(zip(operation.keys, operation.deltas, strict=True), deltas)
            versions.update(dict.fromkeys(operation.keys, version))
        result.last_version = max(result.last_version, position + max((index for index, _ in batch.segments), default=0))
    result.added = {key: (delta, versions[key]) for key, delta in deltas.items()}
    return result


def overflowing(added: Mapping[str, tuple[int, int]]) -> set[str]:
    """Keys whose sum alone is too large for a delta: they must be read."""
    return {key for key, (delta, _) in added.items() if not in_range(delta)}


def _take_known(  # noqa: PLR0913 - what is done, to what, by whom
    result: Plan,
    rows: Mapping[str, Row],
    operation: Increments,
    read: Set[str],
    batch: Batch,
    index: int,
    version: int,
) -> Increments:
    """Apply the increments of keys whose value is known here; what is left is to be added."""
    left = Increments([], [])
    for key, delta in zip(operation.keys, operation.deltas, strict=True):
        if key in read or key in result.put:
            _increment(result, rows, key, delta, batch, index, version)
        else:
            left.keys.append(key)
            left.deltas.append(delta)
    return left


def _row(result: Plan, rows: Mapping[str, Row], key: str) -> Row:
    return result.put.get(key) or rows.get(key) or Row()


def _increment(  # noqa: PLR0913
    result: Plan, rows: Mapping[str, Row], key: str, delta: int, batch: Batch, index: int, version: int
) -> Outcome:
    row = _row(result, rows, key)
    if version < row.set_version:  # void: a set that stands after it has been applied already
        return Outcome(batch.id, index, key, "applied", row.value, row.version)
    value = row.value + delta
    if not in_range(value):
        outcome = Outcome(batch.id, index, key, "rejected", row.value, row.version, "overflow")
        result.outcomes.append(outcome)
        return outcome
    row = Row(value, max(row.version + 1, version), row.set_version)
    result.put[key] = row
    return Outcome(batch.id, index, key, "applied", row.value, row.version)


def _take_step(  # noqa: PLR0913
    result: Plan, rows: Mapping[str, Row], step: Step, batch: Batch, index: int, version: int
) -> None:
    if step.kind == "increment":
        outcome = _increment(result, rows, step.key, step.operand, batch, index, version)
        if outcome.status == "applied":
            result.outcomes.append(outcome)
        return
    row = _row(result, rows, step.key)
    if step.if_version is not None and step.if_version != row.version:
        result.outcomes.append(Outcome(batch.id, index, step.key, "rejected", row.value, row.version, "version"))
        return
    if version >= row.set_version:
        row = Row(step.operand, max(row.version + 1, version), version)
        result.put[step.key] = row
        result.last_set_version = max(result.last_set_version, version)
    result.outcomes.append(Outcome(batch.id, index, step.key, "applied", row.value, row.version))
