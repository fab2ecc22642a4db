"""The `Priority` header (RFC 9218): what counts, and what is ignored. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counters.api.priority import queue, urgency


@pytest.mark.parametrize(
    ("header", "asked"),
    [
        *(("u=0", 0), ("u=6", 6), ("u=7", 7), ("u=7, i", 7), ("i,u=7", 7), ("i=?0 \t, u=1", 1), ("  u=2  ", 2)),
        *(("u=7;a;b=1", 7), ("u=1, u=7", 7), ("u=7, u=1", 1)),
        *(('x="a, u=1", u=7', 7), ("x=(1 2;q \"b\");p, u=7", 7), ("x=:YQ==:, y=%\"f%c3\", z=@1, t=a/b:c, u=7", 7)),
        *(("", 3), ("i", 3), ("u", 3), ("u=8", 3), ("u=-1", 3), ("u=7.0", 3), ('u="7"', 3), ("u=(7)", 3), ("u=?1", 3)),
        *(("u=7,", 3), (",u=7", 3), ("u=7 u=7", 3), ("u = 7", 3), ("U=7", 3), ("u=7;", 3), ("x=\xe9, u=7", 3)),
        *(("u=7\n", 3), ("u=", 3), ("u=1234567890123456", 3), ("u=7" + " " * 2000 + ", i", 3)),
    ],
)  # fmt: skip
def test_the_urgency_of_a_header(header: str, asked: int) -> None:
    assert urgency(header) == asked


@given(st.text())
def test_any_text_has_an_urgency(text: str) -> None:
    assert 0 <= urgency(text) <= 7


def test_low_urgency_is_spilled() -> None:
    assert [queue(f"u={n}") for n in range(8)] == ["fresh"] * 6 + ["excess"] * 2
    assert queue(None) == queue("u=7,") == "fresh"
