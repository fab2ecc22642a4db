"""The batch codec: what was encoded comes back, and nothing that is no batch comes through. Pure."""

from __future__ import annotations

from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from counters.batch import (
    FORMAT,
    BadBatch,
    Batch,
    Events,
    Increments,
    Operation,
    Step,
    Token,
    decode,
    encode,
    encode_segment,
)
from counters.operations import MAX_VALUE, MIN_VALUE

ID = UUID(int=7)
deltas = st.integers(MIN_VALUE, MAX_VALUE)
texts = st.text(max_size=20)
increments = st.dictionaries(texts, deltas).map(lambda folded: Increments(list(folded), list(folded.values())))
steps = st.builds(
    Step, texts, st.sampled_from(["increment", "set", "reset"]), deltas, st.one_of(st.none(), st.integers(0, MAX_VALUE))
)
events = st.builds(
    lambda pairs, awaited: Events("x", [key for key, _ in pairs], [other for _, other in pairs], [], awaited),
    st.lists(st.tuples(texts, texts)),
    st.booleans(),
)
segments = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.one_of(increments, steps, events)))
tokens = st.lists(st.builds(Token, st.binary(max_size=20), st.binary(max_size=60)))


def encoded(
    segments: list[tuple[int, Operation]], tokens: list[Token] | None = None, reply_to: str | None = None
) -> bytes:
    return encode(ID, [(index, encode_segment(operation)) for index, operation in segments], tokens or [], reply_to)


def raw(*elements: object) -> bytes:
    return msgspec.msgpack.encode(elements)


@given(st.uuids(), segments, tokens, st.one_of(st.none(), texts))
def test_what_was_encoded_comes_back(
    id: UUID, segments: list[tuple[int, Operation]], tokens: list[Token], reply_to: str | None
) -> None:
    data = encode(id, [(index, encode_segment(operation)) for index, operation in segments], tokens, reply_to)
    batch = decode(data)
    assert batch == Batch(FORMAT, id.bytes, segments, tokens, reply_to)
    assert batch.uuid == id


@pytest.mark.parametrize(
    ("step", "needs"),
    [
        (Step("a", "increment", 1), True),
        (Step("a", "set", 1), False),
        (Step("a", "reset", 0), False),
        (Step("a", "set", 1, if_version=0), True),
        (Step("a", "reset", 0, if_version=5), True),
    ],
)
def test_which_steps_need_their_row(step: Step, needs: bool) -> None:
    assert step.needs_row(8, last_set_version=7, last_version=7) is needs
    assert step.needs_row(7, last_set_version=7, last_version=7)  # late


def test_increments_need_their_rows_behind_a_set_alone() -> None:
    assert not Increments(["a"], [1]).needs_row(7, last_set_version=7, last_version=9)
    assert Increments(["a"], [1]).needs_row(6, last_set_version=7, last_version=7)


@given(increments, st.lists(texts))
def test_the_parts_of_increments_make_up_the_whole(whole: Increments, some: list[str]) -> None:
    part, rest = whole.restricted_to(set(some)), whole.restricted_to(set(whole.keys) - set(some))
    assert set(part.keys) == set(whole.keys) & set(some)
    both = list(zip([*part.keys, *rest.keys], [*part.deltas, *rest.deltas], strict=True))
    assert sorted(both) == sorted(zip(whole.keys, whole.deltas, strict=True))


def test_a_batch_tells_its_keys_and_counts_its_operations() -> None:
    batch = decode(GOOD)
    assert (list(batch.keys), batch.operations) == (["a", "é", "b"], 3)


@settings(max_examples=500)
@given(st.binary())
@example(b"")
@example(b"\x90")
@example(b"\x91\x01")
@example(b"\x91" * 100_000)
@example(b"\x91\xdf\xff\xff\xff\xff")
@example(raw([[[]]] * 3))
def test_random_bytes_are_no_batch(data: bytes) -> None:
    with pytest.raises(BadBatch):
        decode(data)


GOOD = encoded(
    [(0, Increments(["a", "é"], [1, -(2**40)])), (1, Step("b", "set", MAX_VALUE, if_version=3))],
    [Token(b"t", b"r")],
    "outcomes:1",
)


@settings(max_examples=500)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.booleans())
def test_a_damaged_batch_is_refused_or_still_fits(place: int, byte: int, cut: bool) -> None:
    """No damage raises anything but `BadBatch`; what is let through has the shape that a shift and PostgreSQL rely
    on."""
    data = GOOD[:place] if cut else GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]
    try:
        batch = decode(data)
    except BadBatch:
        return
    assert not cut
    assert batch.format == FORMAT
    assert len(batch.uuid.bytes) == 16
    for index, operation in batch.segments:
        assert 0 <= index < 2**31
        if isinstance(operation, Increments):
            assert len(operation.keys) == len(operation.deltas)
        elif isinstance(operation, Events):
            assert len(operation.keys) == len(operation.others)
        else:
            assert MIN_VALUE <= operation.operand <= MAX_VALUE


@given(st.binary(min_size=1))
def test_nothing_may_follow_a_batch(rest: bytes) -> None:
    with pytest.raises(BadBatch):
        decode(GOOD + rest)


SEGMENT = [0, ["i", ["a"], [1]]]
MALFORMED = {
    "another format": raw(FORMAT + 1, ID.bytes, [], [], None),
    "no number for a format": raw("1", ID.bytes, [], [], None),
    "a format out of depth": b"\x95" + b"\x91" * 10_000,
    "too few elements": raw(FORMAT, ID.bytes, []),
    "an object": msgspec.msgpack.encode({"format": FORMAT}),
    "a short id": raw(FORMAT, ID.bytes[:15], [SEGMENT], [], None),
    "a long id": raw(FORMAT, ID.bytes + b"\0", [SEGMENT], [], None),
    "an id of text": raw(FORMAT, ID.hex[:16], [SEGMENT], [], None),
    "an unknown operation": raw(FORMAT, ID.bytes, [[0, ["x", ["a"], [1]]]], [], None),
    "an unknown kind": raw(FORMAT, ID.bytes, [[0, ["s", "a", "double", 1]]], [], None),
    "more keys than deltas": raw(FORMAT, ID.bytes, [[0, ["i", ["a", "b"], [1]]]], [], None),
    "more deltas than keys": raw(FORMAT, ID.bytes, [SEGMENT, [0, ["i", [], [1]]]], [], None),
    "a delta that is no integer": raw(FORMAT, ID.bytes, [[0, ["i", ["a"], [1.5]]]], [], None),
    "a key that is no text": raw(FORMAT, ID.bytes, [[0, ["i", [b"a"], [1]]]], [], None),
    "a key that is no UTF-8": raw(FORMAT, ID.bytes, [[0, ["i", ["a?"], [1]]]], [], None).replace(b"a?", b"a\xff"),
    "an operand beyond 64 bits": raw(FORMAT, ID.bytes, [[0, ["s", "a", "set", 2**63]]], [], None),
    "a negative index": raw(FORMAT, ID.bytes, [[-1, SEGMENT[1]]], [], None),
    "an index beyond 31 bits": raw(FORMAT, ID.bytes, [[2**31, SEGMENT[1]]], [], None),
    "tokens that are none": raw(FORMAT, ID.bytes, [SEGMENT], [["token", "record"]], None),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_batches_are_refused(name: str) -> None:
    with pytest.raises(BadBatch, match="not a batch"):
        decode(MALFORMED[name])


def test_the_malformed_batches_differ_from_a_good_one_in_that_alone() -> None:
    assert decode(raw(FORMAT, ID.bytes, [SEGMENT], [], None)).segments == [(0, Increments(["a"], [1]))]
    assert decode(raw(FORMAT, ID.bytes, [[0, ["s", "a", "set", 2**63 - 1]]], [], None)).segments == [
        (0, Step("a", "set", MAX_VALUE))
    ]
