"""Write ids: printed and parsed again, and nothing else parses. Pure."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counters.write_id import WRITE_ID_PATTERN, WriteId
from sharding.lanes import EXCESS, FRESH, MOST, Lane

BATCH = "0190a5b2c3d47e8f9aabbccddeeff001"
lanes = st.builds(Lane, st.integers(0, 63), st.integers(0, MOST - 1), st.sampled_from([EXCESS, FRESH]))
write_ids = st.builds(
    WriteId, st.uuids(), st.integers(0, 2**32 - 1), st.sets(lanes, min_size=1).map(lambda some: tuple(sorted(some)))
)


@given(write_ids)
def test_what_was_printed_comes_back(write: WriteId) -> None:
    assert WriteId.parse(str(write)) == write


def test_an_id_is_short_and_fit_for_an_address() -> None:
    assert str(WriteId(UUID(BATCH), 26, (Lane(0, 0), Lane(1, 0)))) == f"{BATCH}-1a-0.1", "as before there were lanes"
    assert str(WriteId(UUID(BATCH), 26, (Lane(0, 3), Lane(1, 0), Lane(1, 1)))) == f"{BATCH}-1a-0:8.1:3"
    assert str(WriteId(UUID(BATCH), 26, (Lane(1, 0, EXCESS), Lane(1, 0)))) == f"{BATCH}-1a-1:10001"


@given(st.one_of(st.text(), st.from_regex(WRITE_ID_PATTERN), st.from_regex(WRITE_ID_PATTERN, fullmatch=True)))
def test_whatever_parses_is_printed_the_same(text: str) -> None:
    try:
        write = WriteId.parse(text)
    except ValueError:
        return
    assert str(write) == text
    assert list(write.lanes) == sorted(set(write.lanes))
    assert list(write.shards) == sorted(set(write.shards))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        BATCH,
        f"{BATCH}-0",
        f"{BATCH}-0-",
        f"{BATCH}--0",
        f"{BATCH[1:]}-0-0",
        f"{BATCH}0-0-0",
        f"{BATCH.upper()}-0-0",
        f"{BATCH}-0-0\n",
        f" {BATCH}-0-0",
        f"{BATCH}-g-0",
        f"{BATCH}-A-0",
        f"{BATCH}-123456789-0",
        f"{BATCH}-01-0",
        f"{BATCH}-0-00",
        f"{BATCH}-0-100",
        f"{BATCH}-0-1.0",
        f"{BATCH}-0-0.0",
        f"{BATCH}-0-0,1",
        f"{BATCH}-0-0.",
        f"{BATCH}-0--1",
        f"{BATCH}-0-" + ".".join(map(str, range(65))),
        f"{BATCH}-0-\u0661",
        f"{BATCH}-0-0:",
        f"{BATCH}-0-0:0",
        f"{BATCH}-0-0:1",
        f"{BATCH}-0-0:02",
        f"{BATCH}-0-0:F",
        f"{BATCH}-0-0:100000000",
        f"{BATCH}-0-0:2.0:4",
    ],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a write id"):
        WriteId.parse(text)
