"""Spilled increments change no count: whenever they are applied, sets void what was accepted before them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from counters.apply.loading import Window, writes_of
from counters.apply.plan import Placed, Row, keys_to_read, plan
from counters.batch import FORMAT, Batch, Increments, Operation, Step, Token

FIRST = 1000
GAP = 4  # between positions: as close as writes of a batch allow, so that versions can meet

keys = st.sampled_from(["a", "b"])
increments = st.dictionaries(keys, st.integers(-9, 9), min_size=1).map(lambda d: Increments(list(d), list(d.values())))
sets = st.builds(Step, keys, st.just("set"), st.integers(-99, 99))
batches = st.lists(st.lists(st.one_of(increments, increments, sets), min_size=1, max_size=3), min_size=1, max_size=8)


@dataclass
class Shard:
    """What transactions do with plans."""

    rows: dict[str, Row] = field(default_factory=dict)
    last_version: int = 0
    last_set_version: int = 0
    newest: int = 0
    outcomes: list[str] = field(default_factory=list)

    def apply(self, window: Sequence[Placed], *, spills: bool) -> None:
        read = keys_to_read(window, self.last_set_version, self.newest)
        result = plan(window, {key: row for key, row in self.rows.items() if key in read}, read, self.newest)
        for key, delta in result.added.items():
            row = self.rows.get(key, Row())
            version = max(row.version + 1, result.versions[key])
            self.rows[key] = Row(row.value + delta, version, row.set_version)
        for key, new in result.put.items():
            row = self.rows.get(key, Row())
            set_version = max(row.set_version, new.set_version)
            self.rows[key] = Row(new.value, max(row.version + 1, new.version), set_version)
        if not spills:
            self.last_version = max(self.last_version, result.last_version)
            self.last_set_version = max(self.last_set_version, result.last_set_version)
        self.newest = max(self.newest, result.last_version)
        self.outcomes += [outcome.status for outcome in result.outcomes]


def placed(run: Sequence[Sequence[Operation]]) -> list[Placed]:
    return [
        Placed(FIRST + n * GAP, Batch(FORMAT, n.to_bytes(16, "big"), list(enumerate(one)), []))
        for n, one in enumerate(run)
    ]


def window_of(run: Sequence[Placed]) -> Window:
    window = Window(0, 0)
    for position, one in run:
        window.add(one.id, position, msgspec.msgpack.encode(one))
    return window


def counts_of(run: Sequence[Placed]) -> dict[str, int]:
    """Each operation by itself, in order."""
    counts = {"a": 0, "b": 0}
    for _, one in run:
        for _, operation in one.segments:
            if isinstance(operation, Step):
                counts[operation.key] = operation.operand
            elif isinstance(operation, Increments):
                for key, delta in zip(operation.keys, operation.deltas, strict=True):
                    counts[key] += delta
    return counts


@settings(max_examples=200)
@given(batches.map(placed), st.integers(0, 9), st.randoms(use_true_random=False))
def test_deferred_increments_count_whenever_they_are_applied(run: list[Placed], old: int, random: Random) -> None:
    shard, stale = Shard(), list[Placed]()
    for one in run:
        before = FIRST + GAP * old if random.random() < 0.7 else 0
        window = window_of([one]).deferring(before)
        shard.apply(window.batches, spills=False)
        stale += [Placed(one.position, one.batch.unconditional) for _ in window.deferred]
        while stale and random.random() < 0.4:
            shard.apply([stale.pop(random.randrange(len(stale)))], spills=True)
    random.shuffle(stale)
    for one in stale:
        shard.apply([one], spills=True)
    assert {key: shard.rows.get(key, Row()).value for key in ("a", "b")} == counts_of(run)
    assert set(shard.outcomes) <= {"applied"}, "no set is late"


def test_a_set_is_not_late_because_spilled_increments_raised_the_version() -> None:
    """They are older than the set, which follows the last applied write closely, and whose row must be read."""
    one = Increments(["a"], [1])
    *old, last = placed([[one]] * 6)
    shard = Shard()
    shard.apply([last], spills=False)
    for late in old:
        shard.apply([late], spills=True)
    position, version = last.position + GAP, shard.rows["a"].version
    assert version > position
    after = Batch(FORMAT, b"z" * 16, [(0, Step("a", "set", 50, version))], [])
    shard.apply([Placed(position, after)], spills=False)
    assert (shard.rows["a"].value, shard.outcomes) == (50, ["applied"])


@given(batches.map(placed), st.integers(0, 9))
def test_a_batch_is_divided_without_a_rest(run: list[Placed], old: int) -> None:
    before = FIRST + GAP * old
    window = window_of(run).deferring(before)
    for one, kept in zip(run, window.batches, strict=True):
        deferred = one.batch.unconditional if one.batch.id in window.deferred else None
        assert (deferred is not None) == (one.position < before and bool(one.batch.unconditional.segments))
        assert window.deferred.get(one.batch.id, 0) == (writes_of(deferred) if deferred else 0)
        assert sorted([*kept.batch.segments, *(deferred.segments if deferred else [])], key=lambda part: part[0]) == [
            *one.batch.segments
        ]


def version_of(batch: int, write: int) -> int:
    return FIRST + batch * GAP + write


matched = st.builds(
    Step,
    keys,
    st.just("set"),
    st.integers(-99, 99),
    st.one_of(st.just(0), st.builds(version_of, st.integers(0, 7), st.integers(0, 2))),
)
conditional_batches = st.lists(
    st.lists(st.one_of(increments, increments, sets, matched, matched), min_size=1, max_size=3), min_size=1, max_size=8
)


@settings(max_examples=500)
@given(conditional_batches.map(placed), st.integers(0, 9), st.randoms(use_true_random=False))
def test_a_lost_primary_has_answered_every_if_match_as_the_next_one_decides_it(
    run: list[Placed], old: int, random: Random
) -> None:
    """It had deferred what was old then, which is known. What it had applied is old by now."""
    lost, after = Shard(), Shard()
    decided = set[bytes]()
    for one in run:
        window = window_of([one]).deferring(FIRST + GAP * old if random.random() < 0.5 else 0)
        decided |= window.deferred.keys()
        lost.apply(window.batches, spills=False)
    window = window_of(run).deferring(FIRST + GAP * len(run), decided)
    assert decided <= window.deferred.keys()
    after.apply(window.batches, spills=False)
    assert after.outcomes == lost.outcomes


def test_idempotency_records_stay_with_what_has_a_result() -> None:
    one = Batch(
        FORMAT, bytes(16), [(0, Increments(["a"], [1])), (1, Step("a", "set", 1))], [Token(b"t", b"r")], "reply"
    )
    assert (one.unconditional.tokens, one.unconditional.reply_to) == ([], None)
    assert (one.conditional.tokens, one.conditional.reply_to) == (one.tokens, "reply")


@given(batches.map(placed), st.integers(0, 12))
def test_a_window_ends_before_what_is_not_to_be_overtaken(run: list[Placed], count: int) -> None:
    before = FIRST + GAP * count - 1
    whole = window_of(run)
    part = whole.until(before)
    assert part.batches == [one for one in run if one.position < before]
    assert part.end == (part.batches[-1].position if part.batches else part.after)
    if count > len(run):
        assert part is whole
