"""Bodies with events: every format says the same, the first error is named, and none of them can do harm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counters.api.media import ARROW, JSON, MSGPACK, NDJSON
from counters.api.problems import Problem
from likes.api import bulk
from likes.events import NOW, Event
from likes.names import is_name, is_type

Row = dict[str, Any]
NAMES = st.one_of(st.sampled_from("ab"), st.from_regex(r"[A-Za-z0-9._:~@-]{1,140}", fullmatch=True))
TYPES = st.from_regex(r"[A-Za-z0-9._:~@-]{1,40}", fullmatch=True).filter(lambda text: text != "users")
IDS = st.one_of(st.none(), st.uuids().map(str), st.text(st.characters(codec="utf-8"), max_size=64))
MOMENTS = st.one_of(st.none(), st.integers(0, NOW - 1))  # microseconds
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": NAMES,
            "item_type": TYPES,
            "item_id": NAMES,
            "action": st.sampled_from(["like", "unlike"]),
            "event_id": IDS,
            "timestamp": MOMENTS,
        }
    ),
    min_size=1,
    max_size=20,
)
REQUIRED = ("user_id", "item_type", "item_id", "action")


def expected(row: Row) -> Event:
    text = row["event_id"] or ""
    try:
        id = UUID(text).bytes if len(text) == 36 and text.count("-") == 4 else text.encode()
    except ValueError:
        id = text.encode()
    at = NOW if row["timestamp"] is None else row["timestamp"]
    return Event(f"{row['item_type']}/{row['item_id']}", row["user_id"], row["action"] == "like", at, id)


def written(rows: Sequence[Row]) -> list[Row]:
    """With timestamps as JSON has them: text."""

    def moment(at: int | None) -> str | None:
        return None if at is None else (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)).isoformat()

    return [{**row, "timestamp": moment(row["timestamp"])} for row in rows]


def columns(rows: Sequence[Row]) -> Row:
    return {f"{name}s": [row[name] for row in rows] for name in rows[0]}


def stream(columns: dict[str, Any], **options: Any) -> bytes:
    records, sink = pa.record_batch(columns), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, records.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(records)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def arrays(rows: Sequence[Row], kind: Any = None) -> dict[str, Any]:
    """Texts of a type, or dictionaries of texts."""
    kinds = pa.string() if kind is None else kind
    texts = {name: pa.array([row[name] for row in rows], pa.string()) for name in (*REQUIRED, "event_id")}
    cast = {name: one.dictionary_encode() if kinds == "dictionary" else one.cast(kinds) for name, one in texts.items()}
    return cast | {"timestamp": pa.array([row["timestamp"] for row in rows], pa.timestamp("us", "UTC"))}


FORMATS: dict[str, tuple[str, Callable[[list[Row]], bytes]]] = {
    "JSON rows": (JSON, lambda rows: msgspec.json.encode({"events": written(rows)})),
    "JSON columns": (JSON, lambda rows: msgspec.json.encode(columns(written(rows)))),
    "NDJSON": (NDJSON, lambda rows: msgspec.json.Encoder().encode_lines(written(rows))),
    "msgpack rows": (MSGPACK, lambda rows: msgspec.msgpack.encode({"events": written(rows)})),
    "msgpack columns": (MSGPACK, lambda rows: msgspec.msgpack.encode(columns(written(rows)))),
    "Arrow": (ARROW, lambda rows: stream(arrays(rows))),
    "Arrow, large strings": (ARROW, lambda rows: stream(arrays(rows, pa.large_string()))),
    "Arrow, string views": (ARROW, lambda rows: stream(arrays(rows, pa.string_view()))),
    "Arrow, dictionaries": (ARROW, lambda rows: stream(arrays(rows, "dictionary"))),
    "Arrow, compressed": (ARROW, lambda rows: stream(arrays(rows), compression="zstd")),
}


@given(ROWS)
def test_every_format_has_the_same_events(rows: list[Row]) -> None:
    for name, (media_type, encode) in FORMATS.items():
        assert bulk.decode(media_type, encode(rows)).events == list(map(expected, rows)), name


ONE: Row = {
    "user_id": "ann",
    "item_type": "post",
    "item_id": "1",
    "action": "like",
    "event_id": None,
    "timestamp": None,
}


def test_what_may_be_missing() -> None:
    least = {name: ONE[name] for name in REQUIRED}
    columns_of = {f"{name}s": [value] for name, value in least.items()}
    bodies = [
        (JSON, msgspec.json.encode({"events": [least]})),
        (JSON, msgspec.json.encode(columns_of)),
        (ARROW, stream({name: pa.array([value]) for name, value in least.items()})),
        (ARROW, stream({name: pa.array([value]) for name, value in ONE.items()})),
    ]
    for media_type, body in bodies:
        assert bulk.decode(media_type, body).events == [expected(ONE)]


@pytest.mark.parametrize(
    ("timestamp", "at"),
    [
        (0, 0),
        (1.5, 1_500_000),
        (1_767_268_800.123456, 1_767_268_800_123_456),
        ("2026-01-01T12:00:00.5+01:00", 1_767_265_200_500_000),
        (9_007_199_254.740990, NOW - 1),
    ],
)
def test_timestamps(timestamp: object, at: int) -> None:
    (event,) = bulk.decode(JSON, msgspec.json.encode({"events": [{**ONE, "timestamp": timestamp}]})).events
    assert event.at == at


def problem(media_type: str, body: bytes) -> Problem:
    with pytest.raises(Problem) as raised:
        bulk.decode(media_type, body)
    assert len(raised.value.detail) < 500
    return raised.value


def changed(**columns: Any) -> bytes:
    """A stream of two events with other columns, or without one."""
    found = {**arrays([ONE, ONE]), **columns}
    return stream({name: column for name, column in found.items() if column is not None})


WRONG_STREAMS: dict[str, tuple[bytes, str, str]] = {
    "no users": (changed(user_id=None), "body", "missing required column `user_id`"),
    "another column": (changed(more=pa.array([1, 2])), "body", "unknown column `more`"),
    "numbers": (changed(item_id=pa.array([1, 2])), "item_id", "Expected a column of strings"),
    "microseconds": (changed(timestamp=pa.array([1, 2])), "timestamp", "Expected a column of timestamps"),
    "no text": (changed(action=pa.array([b"like", b"like"])), "action", "Expected a column of strings"),
    "a null": (changed(item_type=pa.array(["post", None])), "item_type[1]", "a value, got null"),
    "a bad user": (changed(user_id=pa.array(["a", "a b"])), "user_id[1]", "1 to 140 characters"),
    "a long user": (changed(user_id=pa.array(["a", "a" * 141])), "user_id[1]", "1 to 140 characters"),
    "a reserved type": (changed(item_type=pa.array(["a", "users"])), "item_type[1]", "reserved word users"),
    "a reserved type in a dictionary": (
        changed(item_type=pa.array(["a", "users"]).dictionary_encode()),
        "item_type[1]",
        "reserved word users",
    ),
    "a long view": (changed(item_id=pa.array(["a", "a" * 10_000], pa.string_view())), "item_id[1]", "1 to 140"),
    "an empty item": (changed(item_id=pa.array(["a", ""])), "item_id[1]", "1 to 140 characters"),
    "another action": (changed(action=pa.array(["like", "love"])), "action[1]", "like or unlike"),
    "a long id": (changed(event_id=pa.array([None, "é" * 65])), "event_id[1]", "length <= 64"),
    "a huge id": (changed(event_id=pa.array([None, "é" * 10_000]).dictionary_encode()), "event_id[1]", "length <= 64"),
    "before 1970": (changed(timestamp=pa.array([None, -1], pa.timestamp("s"))), "timestamp[1]", "from 1970 to 2255"),
    "after 2255": (
        changed(timestamp=pa.array([1, NOW // 1000 + 1], pa.timestamp("ms"))),
        "timestamp[1]",
        "from 1970 to 2255",
    ),
}


@pytest.mark.parametrize("name", WRONG_STREAMS)
def test_streams_that_are_refused(name: str) -> None:
    body, field, rule = WRONG_STREAMS[name]
    found = problem(ARROW, body)
    assert found.status == 400
    (error,) = found.errors
    assert error["field"] == field
    assert rule in error["rule"]


@pytest.mark.parametrize(
    "odd",
    [
        "01234567-89ab-cdef-0123-456789abcd  ",  # blanks are no digits
        "01234567-89ab-cdef-0123-456789abcd-0",
        "01234567089ab-cdef-0123-456789abcdef",
        "0123456-789ab-cdef-0123-456789abcdef",
        "01234567-89ab-cdef-0123-456789abcdeg",
    ],
)
def test_ids_that_are_nearly_uuids_are_texts(odd: str) -> None:
    good = "00112233-4455-6677-8899-aabbccddeeff"
    body = changed(event_id=pa.array([good, odd]))
    assert [event.id for event in bulk.decode(ARROW, body).events] == [UUID(good).bytes, odd.encode()]
    alone = msgspec.json.encode({"events": [{**ONE, "event_id": odd}]})
    assert [event.id for event in bulk.decode(JSON, alone).events] == [odd.encode()]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_of_every_unit(unit: str) -> None:
    ticks = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[unit]
    column = pa.array([7 * ticks, None], pa.timestamp(unit))
    assert [event.at for event in bulk.decode(ARROW, changed(timestamp=column)).events] == [7_000_000, NOW]


def test_columns_of_other_lengths_are_refused() -> None:
    body = {**columns([ONE, ONE]), "timestamps": [1]}
    (error,) = problem(JSON, msgspec.json.encode(body)).errors
    assert (error["field"], error["rule"]) == ("timestamps", "as many as user_ids: 2, got 1")
    missing = {name: column for name, column in columns([ONE]).items() if name != "actions"}
    assert "missing required field `actions`" in problem(JSON, msgspec.json.encode(missing)).detail
    assert "`events`, or `user_ids`, `item_types`, `item_ids` and `actions`" in problem(JSON, b"{}").detail
    assert "either `events` or" in problem(JSON, msgspec.json.encode({"events": [ONE], **body})).detail


@pytest.mark.limit("TALLY_MAX_INCREMENTS")
def test_too_many_events() -> None:
    rows = [ONE] * 100_001
    assert problem(JSON, msgspec.json.encode(columns(rows))).status == 413
    assert problem(ARROW, stream(arrays(rows))).status == 413


@pytest.mark.parametrize("kind", [None, "dictionary", pa.string_view()], ids=["plain", "dictionaries", "views"])
def test_a_damaged_stream_is_refused_or_valid(kind: Any) -> None:
    """Bytes changed at random: a problem or valid events, no other error, little memory."""
    rows = [{**ONE, "user_id": f"user{n}", "event_id": "e" * 20, "timestamp": n} for n in range(5)]
    sample, random = stream(arrays(rows, kind)), Random(1)
    numbers = (0, 1, -1, 8, 127, 255, 100_000, 2**31, 2**31 - 1, 2**62, -(2**63))
    before = pa.total_allocated_bytes()
    for _ in range(1000):
        data = bytearray(sample)
        for _ in range(random.choice((1, 1, 2, 4))):
            place, width = random.randrange(len(data)), random.choice((1, 2, 4, 8))
            data[place : place + width] = (random.choice(numbers) % 256**width).to_bytes(width, "little")
        try:
            found = bulk.decode(ARROW, bytes(data))
        except Problem as error:
            assert error.status in (400, 413)  # noqa: PT017 - only some raise
        else:
            for event in found.events:
                type_, _, name = event.item.partition("/")
                assert is_type(type_)
                assert is_name(name)
                assert is_name(event.user)
                assert 0 <= event.at <= NOW
    assert pa.total_allocated_bytes() - before < 1_000_000
