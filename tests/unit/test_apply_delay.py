"""Apply delays: what is understood, and where a node's Patroni configuration has them. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replication import apply_delay
from replication.apply_delay import ApplyDelay


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("200ms", 200, 200),
        ("1.5s", 1500, 1500),
        ("50ms..500ms", 50, 500),
        ("0ms", 0, 0),
        ("1s..1000ms", 1000, 1000),
        ("3600s", 3_600_000, 3_600_000),
    ],
)
def test_times_and_ranges(text: str, least: int, most: int) -> None:
    assert ApplyDelay.parse(text) == ApplyDelay(least, most)


@pytest.mark.parametrize(
    "text", ["", "200", "-1ms", "2m", "500ms..50ms", "1ms..", "..1ms", "1ms...2ms", "3601s", "1e3ms", "٣ms", "1ms\n"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a time like"):
        ApplyDelay.parse(text)


@given(st.integers(0, 3_600_000), st.integers(0, 3_600_000))
def test_one_is_chosen_within_the_range(one: int, other: int) -> None:
    delay = ApplyDelay(min(one, other), max(one, other))
    assert ApplyDelay.parse(str(delay)) == delay
    assert delay.least <= delay.choose() <= delay.most


@given(st.integers(0, 3_600_000), st.integers(0, 3_600_000))
def test_a_configuration_keeps_everything_else(first: int, second: int) -> None:
    config = {"name": "n", "postgresql": {"listen": "127.0.0.1:1"}, "tags": {"nofailover": True}}
    put = apply_delay.put(apply_delay.put(config, first), second)
    assert apply_delay.of(put) == second
    assert put["postgresql"].get("recovery_conf") == ({"recovery_min_apply_delay": f"{second}ms"} if second else None)
    assert apply_delay.put(put, 0) == config
