"""Fold and plan: folding anywhere gives what applying one by one gives. Pure.

`Reference` applies operations singly, with nothing but a dictionary; `Shard` drives `plan` as a shift does, with a
dictionary for PostgreSQL. One freedom is the plan's own: increments commute, so those of a key whose row it need not
read are one sum, and only that must fit into 64 bits, whatever it was on the way. `Reference.summed` says which keys
may have it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from random import Random
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counters.apply.plan import Placed, Row, keys_to_read, plan
from counters.batch import FORMAT, Batch, Increments, Operation, Step
from counters.operations import MAX_VALUE, MIN_VALUE, fold, in_range
from counters.outcome import Outcome

KEYS = ["a", "b", "c"]
# Positions leave room below (late batches) and between (the indexes of a batch's writes).
FIRST_POSITION = 1_000
ROOM = 100

keys = st.sampled_from(KEYS)
small = st.integers(-9, 9)
extreme = st.one_of(
    small,
    st.integers(MIN_VALUE, MIN_VALUE + 9),
    st.integers(MAX_VALUE - 9, MAX_VALUE),
    st.sampled_from([2**62, -(2**62), 2**63 - 2**20]),
)


@dataclass
class Reference:
    """Each operation by itself, in order. Keys that are `summed` have no range until they are set."""

    rows: dict[str, Row] = field(default_factory=dict)
    summed: set[str] = field(default_factory=set)
    outcomes: list[Outcome] = field(default_factory=list)
    among: int = 1  # operations of the write at hand

    def apply(self, batches: Sequence[Placed]) -> None:
        for position, batch in batches:
            for index, operation in batch.segments:
                self.among = len(operation.keys)
                if isinstance(operation, Increments):
                    for key, delta in zip(operation.keys, operation.deltas, strict=True):
                        self._increment(batch, position, index, key, delta, waited=False)
                    continue
                assert isinstance(operation, Step)
                if operation.kind == "increment":
                    self._increment(batch, position, index, operation.key, operation.operand, waited=True)
                else:
                    self._set(batch, position, index, operation)

    def _increment(self, batch: Batch, position: int, index: int, key: str, delta: int, *, waited: bool) -> None:
        row, version = self.rows.get(key, Row()), position + index
        void = version < row.set_version
        if not void and key not in self.summed and not in_range(row.value + delta):
            self._say(batch, index, key, row, "overflow")
            return
        if not void:
            row = self.rows[key] = Row(row.value + delta, max(row.version + 1, version), row.set_version)
        if waited:
            self._say(batch, index, key, row)

    def _set(self, batch: Batch, position: int, index: int, step: Step) -> None:
        row, version = self.rows.get(step.key, Row()), position + index
        if step.if_version is not None and step.if_version != row.version:
            self._say(batch, index, step.key, row, "version")
            return
        if row.set_version < version < row.version:  # what stands after it cannot be told from what stands before
            self._say(batch, index, step.key, row, "late")
            return
        if version >= row.set_version:
            row = self.rows[step.key] = Row(step.operand, max(row.version + 1, version), version)
            self.summed.discard(step.key)
        self._say(batch, index, step.key, row)

    def _say(self, batch: Batch, index: int, key: str, row: Row, reason: str | None = None) -> None:
        status: Literal["applied", "rejected"] = "rejected" if reason else "applied"
        self.outcomes.append(Outcome(batch.id, index, key, status, row.value, row.version, reason, self.among))


@dataclass
class Shard:
    """What a shift does with `plan`, and what its SQL does with the result (sql/add.sql, sql/put.sql)."""

    rows: dict[str, Row] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    last_set_version: int = 0
    last_version: int = 0
    read: set[str] = field(default_factory=set)  # by the last window

    def apply(self, window: Sequence[Placed]) -> None:
        """One transaction."""
        read = keys_to_read(window, self.last_set_version, self.last_version)
        while True:
            result = plan(window, {key: self.rows[key] for key in read if key in self.rows}, read)
            more = result.overflowing()
            if not more:
                assert all(in_range(delta) for delta in result.added.values()), "PostgreSQL takes a bigint"
                more = {
                    key for key, delta in result.added.items() if not in_range(self.rows.get(key, Row()).value + delta)
                }
            if not more:
                break
            assert not more & read, "a key that was read is never added to"
            read |= more
        assert not result.added.keys() & result.put.keys(), "a key goes one of the two ways"
        assert result.added.keys() == result.versions.keys()
        assert result.keys == {key for placed in window for key in placed.batch.keys}, "each key is asked for its owner"
        for key, delta in result.added.items():
            version = result.versions[key]
            row = self.rows.get(key, Row())
            self.rows[key] = Row(
                row.value + delta, max(row.version + 1, version) if key in self.rows else version, row.set_version
            )
        for key, new in result.put.items():
            row = self.rows.get(key, Row())
            version = max(row.version + 1, new.version) if key in self.rows else new.version
            self.rows[key] = Row(new.value, version, max(row.set_version, new.set_version))
        self.outcomes += result.outcomes
        self.last_set_version = max(self.last_set_version, result.last_set_version)
        self.last_version = max(self.last_version, result.last_version)
        self.read = read


def steps(operands: st.SearchStrategy[int]) -> st.SearchStrategy[Operation]:
    """An operation. `if_version` is often one that the run can have."""
    if_version = st.one_of(
        st.none(), st.just(0), st.integers(0, 12).map(lambda n: FIRST_POSITION + n // 3 * ROOM + n % 3)
    )
    increments = st.dictionaries(keys, operands, max_size=len(KEYS)).map(
        lambda d: Increments(list(d), list(d.values()))
    )
    return st.one_of(
        increments,
        increments,
        st.builds(Step, keys, st.just("increment"), operands),
        st.builds(Step, keys, st.just("set"), operands, if_version),
        st.builds(Step, keys, st.just("reset"), st.just(0), if_version),
    )


def runs(operands: st.SearchStrategy[int], first: int = FIRST_POSITION) -> st.SearchStrategy[list[Placed]]:
    """A run of batches in the journal's order."""

    def place(batches: list[list[Operation]]) -> list[Placed]:
        return [
            Placed(first + n * ROOM, Batch(FORMAT, (first + n).to_bytes(16, "big"), list(enumerate(batch)), []))
            for n, batch in enumerate(batches)
        ]

    return st.lists(st.lists(steps(operands), max_size=4), max_size=5).map(place)


def rows_before(values: st.SearchStrategy[int]) -> st.SearchStrategy[dict[str, Row]]:
    """Rows that stand before a run starts; a set is no younger than its row."""
    versions = st.tuples(st.integers(1, FIRST_POSITION - 1), st.booleans())
    return st.dictionaries(keys, st.builds(lambda value, v: Row(value, v[0], v[0] * v[1]), values, versions))


def shard_with(rows: dict[str, Row]) -> Shard:
    newest_set = max((row.set_version for row in rows.values()), default=0)
    return Shard(
        dict(rows), last_set_version=newest_set, last_version=max((row.version for row in rows.values()), default=0)
    )


def windows(run: Sequence[Placed], cuts: Sequence[int]) -> list[Sequence[Placed]]:
    """A run in consecutive windows."""
    edges = sorted({0, len(run), *(cut % (len(run) + 1) for cut in cuts)})
    return [run[start:end] for start, end in pairwise(edges)]


increments_of = st.lists(st.tuples(keys, extreme))


def folded(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    pairs = list(pairs)
    return fold([key for key, _ in pairs], [delta for _, delta in pairs])


@given(increments_of, increments_of, increments_of)
def test_fold_is_a_commutative_monoid(
    a: list[tuple[str, int]], b: list[tuple[str, int]], c: list[tuple[str, int]]
) -> None:
    def both(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
        return folded([*one.items(), *other.items()])

    x, y, z = folded(a), folded(b), folded(c)
    assert both(both(x, y), z) == both(x, both(y, z))
    assert both(x, {}) == x == both({}, x)
    assert both(x, y) == both(y, x)
    assert folded(a + b + c) == reduce(both, (x, y, z))


@given(increments_of, st.randoms(use_true_random=False))
def test_fold_agrees_with_one_by_one_in_any_order(increments: list[tuple[str, int]], random: Random) -> None:
    one_by_one: Counter[str] = Counter()
    shuffled = list(increments)
    random.shuffle(shuffled)
    for key, delta in shuffled:
        one_by_one[key] += delta
    assert folded(increments) == dict(one_by_one)


def test_nothing_folds_to_nothing() -> None:
    assert fold([], []) == {}


@settings(max_examples=300)
@given(rows_before(small), runs(small))
def test_a_window_agrees_with_one_by_one(rows: dict[str, Row], run: list[Placed]) -> None:
    shard, reference = shard_with(rows), Reference(dict(rows))
    shard.apply(run)
    reference.apply(run)
    assert shard.rows == reference.rows
    assert shard.outcomes == reference.outcomes


@settings(max_examples=300)
@given(rows_before(small), runs(small), st.lists(st.integers(0, 5)))
def test_windows_make_no_difference(rows: dict[str, Row], run: list[Placed], cuts: list[int]) -> None:
    whole, split = shard_with(rows), shard_with(rows)
    whole.apply(run)
    for window in windows(run, cuts):
        split.apply(window)
    assert split.rows == whole.rows
    assert split.outcomes == whole.outcomes
    assert split.last_set_version == whole.last_set_version


@settings(max_examples=500)
@given(rows_before(extreme), runs(extreme), st.lists(st.integers(0, 5)))
def test_windows_agree_with_one_by_one_at_the_ends_of_the_range(
    rows: dict[str, Row], run: list[Placed], cuts: list[int]
) -> None:
    shard = shard_with(rows)
    for window in windows(run, cuts):
        rows, shard.outcomes = dict(shard.rows), []
        shard.apply(window)
        reference = Reference(rows, summed=set(KEYS) - shard.read)
        reference.apply(window)
        assert shard.rows == reference.rows
        assert shard.outcomes == reference.outcomes
        assert all(in_range(row.value) for row in shard.rows.values())


@settings(max_examples=250)
@given(runs(small), st.lists(st.booleans(), min_size=5, max_size=5))
def test_late_increments_before_an_applied_set_are_void(run: list[Placed], late: list[bool]) -> None:
    """Some batches of increments come after everything else: of what they add, only what no set of that key follows is
    counted."""
    latecomers = [placed for placed, is_late in zip(run, late, strict=False) if is_late and _only_increments(placed)]
    punctual = [placed for placed in run if placed not in latecomers]
    shard = Shard()
    shard.apply(punctual)
    before = dict(shard.rows)
    shard.apply(latecomers)
    expected = {key: before.get(key, Row()).value for key in KEYS}
    for position, batch in latecomers:
        for index, operation in batch.segments:
            assert isinstance(operation, Increments)
            for key, delta in zip(operation.keys, operation.deltas, strict=True):
                expected[key] += delta * (position + index >= before.get(key, Row()).set_version)
    assert {key: shard.rows.get(key, Row()).value for key in KEYS} == expected
    for key, row in before.items():
        assert shard.rows[key].version > row.version or shard.rows[key] == row, "I5: what changes rises"
        assert shard.rows[key].set_version == row.set_version


@settings(max_examples=300)
@given(runs(small), st.lists(st.booleans(), min_size=5, max_size=5))
def test_a_late_window_agrees_with_one_by_one(run: list[Placed], late: list[bool]) -> None:
    """Whatever comes late: the same values and outcomes. Increments that are only added may raise a version once
    instead of each time."""
    latecomers = [placed for placed, is_late in zip(run, late, strict=False) if is_late]
    shard = Shard()
    shard.apply([placed for placed in run if placed not in latecomers])
    before, shard.outcomes = dict(shard.rows), []
    reference = Reference(dict(before))
    shard.apply(latecomers)
    reference.apply(latecomers)
    assert shard.outcomes == reference.outcomes
    for key, row in reference.rows.items():
        mine = shard.rows[key]
        assert (mine.value, mine.set_version) == (row.value, row.set_version)
        assert mine == row if key in shard.read else before.get(key, Row()).version <= mine.version <= row.version


def _only_increments(placed: Placed) -> bool:
    return all(isinstance(operation, Increments) for _, operation in placed.batch.segments)


def _placed(position: int, *operations: Operation) -> Placed:
    return Placed(position, Batch(FORMAT, position.to_bytes(16, "big"), list(enumerate(operations)), []))


def _add(**deltas: int) -> Increments:
    return Increments(list(deltas), list(deltas.values()))


EXAMPLES: dict[str, tuple[dict[str, Row], list[Placed], dict[str, Row], list[tuple[str, str | None]]]] = {
    "a set voids what came before it, unread": (
        {},
        [_placed(10, _add(a=5)), _placed(20, Step("a", "set", 2)), _placed(30, _add(a=1))],
        {"a": Row(3, 30, 20)},
        [("applied", None)],
    ),
    "a late increment is void": (
        {"a": Row(7, 20, 20)},
        [_placed(10, _add(a=5, b=1))],
        {"a": Row(7, 20, 20), "b": Row(1, 10)},
        [],
    ),
    "overflow is rejected alone": (
        {"a": Row(MAX_VALUE, 1)},
        [_placed(10, _add(a=1, b=1)), _placed(20, _add(b=1))],
        {"a": Row(MAX_VALUE, 1), "b": Row(2, 20)},
        [("rejected", "overflow")],
    ),
    "a sum beyond 64 bits is no reason to reject its parts": (
        {"a": Row(MIN_VALUE, 1)},
        [_placed(10, _add(a=MAX_VALUE)), _placed(20, _add(a=MAX_VALUE))],
        {"a": Row(MAX_VALUE - 1, 20)},
        [],
    ),
    "compare-and-set sees the version that the window has made": (
        {},
        [
            _placed(10, _add(a=1)),
            _placed(20, Step("a", "set", 9, if_version=10)),
            _placed(30, Step("a", "set", 8, if_version=10)),
        ],
        {"a": Row(9, 20, 20)},
        [("applied", None), ("rejected", "version")],
    ),
    "a late set is refused where increments that stand after it are in the value": (
        {"a": Row(7, 30, 5)},
        [_placed(10, Step("a", "set", 1))],
        {"a": Row(7, 30, 5)},
        [("rejected", "late")],
    ),
    "a waited increment gets the value it made": (
        {},
        [_placed(10, Step("a", "increment", 4))],
        {"a": Row(4, 10)},
        [("applied", None)],
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    rows, run, expected, said = EXAMPLES[name]
    shard = shard_with(rows)
    shard.apply(run)
    assert shard.rows == expected
    assert [(one.status, one.reason) for one in shard.outcomes] == said


def test_a_sum_may_leave_the_range() -> None:
    assert folded([("a", MAX_VALUE), ("a", MAX_VALUE)]) == {"a": 2 * MAX_VALUE}
