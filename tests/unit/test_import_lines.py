"""The lines of an import: parsed, folded and cut into chunks, by property. Pure."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counters.imports.lines import BadLine, Chunk, Format, chunks
from counters.operations import MAX_VALUE
from tests.support.lines import as_csv, as_ndjson

KEYS = st.from_regex(r"[A-Za-z0-9._:~@-]{1,20}", fullmatch=True)
INCREMENTS = st.lists(st.tuples(KEYS, st.integers(-(2**40), 2**40)), max_size=60)


def total(parts: list[Chunk]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for part in parts:
        for key, delta in part.folded.items():
            sums[key] += delta
    return sums


@given(INCREMENTS, st.integers(1, 25))
def test_both_formats_give_the_same_sums_whatever_the_chunks(increments: list[tuple[str, int]], size: int) -> None:
    expected: Counter[str] = Counter()
    for key, delta in increments:
        expected[key] += delta
    formats: list[tuple[list[bytes], Format]] = [(as_csv(increments), "csv"), (as_ndjson(increments), "ndjson")]
    for lines, form in formats:
        parts = list(chunks(lines, form, size=size))
        assert total(parts) == expected
        assert [part.number for part in parts] == list(range(len(parts)))
        assert sum(part.increments for part in parts) == len(increments)
        assert all(part.increments == size for part in parts[:-1])
        assert not parts or parts[-1].end == sum(map(len, lines))


@given(INCREMENTS.filter(bool), st.integers(1, 10), st.data())
def test_a_bad_line_is_named_or_skipped_and_moves_no_chunk(
    increments: list[tuple[str, int]], size: int, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(increments) - 1))
    lines = as_ndjson(increments)
    lines[place] = b'{"key": "a b", "delta": 1}\n'
    with pytest.raises(BadLine, match=rf"^line {place + 1}: a key has"):
        list(chunks(lines, "ndjson", size=size))
    whole, skipping = (
        list(chunks(as_ndjson(increments), "ndjson", size=size)),
        list(chunks(lines, "ndjson", size=size, skip_bad=True)),
    )
    assert sum(part.skipped for part in skipping) == 1
    assert [(part.number, part.first_line, part.last_line) for part in whole] == [
        (part.number, part.first_line, part.last_line) for part in skipping
    ]
    assert [part.digest for part in whole][: place // size] == [part.digest for part in skipping][: place // size]


@pytest.mark.parametrize(
    ("form", "line", "rule"),
    [
        ("csv", b"a\n", "two columns"),
        ("csv", b"a,1,2\n", "two columns"),
        ("csv", b"a,\n", "whole number"),
        ("csv", b"a,1.5\n", "whole number"),
        ("csv", b"a,1_000\n", "whole number"),
        ("csv", "a,\u0661\n".encode(), "whole number"),
        ("csv", f"a,{MAX_VALUE + 1}\n".encode(), "whole number"),
        ("csv", b",1\n", "a key has"),
        ("csv", b"a b,1\n", "a key has"),
        ("csv", b"k" * 200 + b",1\n", "with its prefix"),
        ("csv", b'"a,1\n', "CSV"),
        ("csv", b"\xff,1\n", "UTF-8"),
        ("ndjson", b"[1]\n", "Expected `object`"),
        ("ndjson", b'{"key": "a"}\n', "delta"),
        ("ndjson", b'{"key": "a", "delta": "1"}\n', "Expected `int`"),
        ("ndjson", b'{"key": "a", "delta": 1, "x": 1}\n', "unknown field"),
        ("ndjson", b'{"key": "a", "delta": 1}, \n', "trailing"),
        ("ndjson", b'{"key": "\xff", "delta": 1}\n', "UTF-8|utf-8"),
        ("ndjson", b'{"key": "a", "delta": 9223372036854775808}\n', "64 bits|whole number"),
    ],
)
def test_a_bad_line_breaks_a_rule(form: Format, line: bytes, rule: str) -> None:
    good = b"a,1\n" if form == "csv" else b'{"key": "a", "delta": 1}\n'
    with pytest.raises(BadLine, match=rf"line 2: .*({rule})"):
        list(chunks([good, line], form, prefix="p:"))


def test_spreadsheets_and_gaps() -> None:
    (part,) = chunks([b"\xef\xbb\xbfKey,Delta\r\n", b"\r\n", b'"a",+1\r\n', b" a , -3\r\n", b"b,2"], "csv")
    assert (part.folded, part.increments, part.last_line) == ({"a": -2, "b": 2}, 3, 5)


def test_a_sum_beyond_64_bits_is_a_bad_line() -> None:
    with pytest.raises(BadLine, match=r"line 2: .*add up"):
        list(chunks([f"a,{MAX_VALUE}\n".encode(), b"a,1\n"], "csv"))
    assert len(list(chunks([f"a,{MAX_VALUE}\n".encode(), b"a,1\n"], "csv", size=1))) == 2
