"""What a process remembers of events: prints are those of equal events only, and of a body with known events the rest is
left."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from counters.api.media import ARROW
from likes.api import bulk
from likes.known import Known
from tests.unit.test_like_bodies import ROWS, Row, arrays, expected, stream


@given(ROWS, st.sampled_from([None, "dictionary", pa.string_view(), pa.large_string()]))
def test_prints_are_those_of_equal_events(rows: list[Row], kind: Any) -> None:
    found = bulk.decode(ARROW, stream(arrays(rows, kind)), Known())
    assert (found.events, found.repeats) == (list(map(expected, rows)), 0)
    by_print = dict(zip(found.prints, found.events, strict=True))
    assert [by_print[one] for one in found.prints] == found.events
    plain = bulk.decode(ARROW, stream(arrays(rows)), Known())
    assert plain.prints == found.prints


@given(ROWS, st.data())
def test_what_is_known_is_left_out(rows: list[Row], data: st.DataObject) -> None:
    known, body = Known(), stream(arrays(rows))
    whole = bulk.decode(ARROW, body, known)
    some = set(data.draw(st.lists(st.sampled_from(whole.prints))))
    known.add(some)
    found = bulk.decode(ARROW, body, known)
    left = [one not in some for one in whole.prints]
    assert found.events == [event for event, new in zip(whole.events, left, strict=True) if new]
    assert found.prints == [one for one in whole.prints if one not in some]
    assert (found.repeats, found.number) == (left.count(False), len(rows))


def test_of_a_stream_with_several_batches_each_is_looked_up() -> None:
    row: Row = {
        "user_id": "ann",
        "item_type": "post",
        "item_id": "1",
        "action": "like",
        "event_id": "x",
        "timestamp": 1,
    }
    batches = [pa.record_batch(arrays([{**row, "user_id": user}])) for user in "abc"]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    body, known = sink.getvalue().to_pybytes(), Known()
    known.add(bulk.decode(ARROW, body, known).prints[1:2])
    found = bulk.decode(ARROW, body, known)
    assert [event.user for event in found.events] == ["a", "c"]
    assert (len(found.prints), found.repeats) == (2, 1)


def test_the_oldest_are_forgotten() -> None:
    known = Known(most=2)
    known.add([b"1", b"2"])
    known.add([b"3"])
    assert known.places_of_unknown([b"1", b"2", b"3", b"4"]) == [3]
    known.add([b"4"])
    assert known.places_of_unknown([b"1", b"3", b"4"]) == [0]
