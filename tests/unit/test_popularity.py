"""Which counters are read most: the counts, what they cost, and what is forgotten."""

from __future__ import annotations

import random
from collections import Counter
from itertools import accumulate

import pytest

from counters.reading.popularity import HALF_LIFE_SECONDS, SAMPLES, Popularity

KEYS = [f"key:{rank}" for rank in range(5000)]


def popularity(most: int) -> Popularity:
    return Popularity(most, random.Random(1))


def zipf(count: int) -> list[str]:
    """Reads of these keys, the first of them most."""
    weights = list(accumulate(1 / rank for rank in range(1, len(KEYS) + 1)))
    return random.Random(2).choices(KEYS, cum_weights=weights, k=count)


def test_few_reads_are_all_counted() -> None:
    found = popularity(100)
    for key, times in (("once", 1), ("often", 3), ("twice", 2)):
        for _ in range(times):
            found.count([key])
    assert found.hottest() == ["often", "twice", "once"]


def test_a_look_up_of_many_keys_counts_each_of_them() -> None:
    found = popularity(100)
    found.count(["a", "b", "c"])
    found.count(["c", "b"])
    found.count(["c"])
    assert found.hottest() == ["c", "b", "a"]


@pytest.mark.parametrize("together", [1, 7, 64])
def test_of_many_reads_a_sample_finds_those_read_most(together: int) -> None:
    """However many keys a look-up has; and no more is counted than was promised."""
    found, reads = popularity(50), zipf(50_000 * 4)
    for second in range(4):
        for start in range(second * 50_000, (second + 1) * 50_000, together):
            found.count(reads[start : min(start + together, (second + 1) * 50_000)])
        found.tick(1)
    truly = [key for key, _ in Counter(reads).most_common(20)]
    assert len({*truly} & {*found.hottest()}) >= 18
    assert found.hottest()[0] == truly[0]
    taken = found.samples
    for start in range(0, 50_000, together):
        found.count(reads[start : start + together])
    assert found.samples - taken <= 2 * SAMPLES


def test_what_was_read_long_ago_counts_less() -> None:
    found = popularity(100)
    for _ in range(5):
        found.count(["before"])
    found.tick(HALF_LIFE_SECONDS)
    for _ in range(3):
        found.count(["now"])
    assert found.hottest() == ["now", "before"]


def test_years_do_not_overflow() -> None:
    found = popularity(100)
    for _ in range(5):
        found.count(["before"])
        found.tick(400 * HALF_LIFE_SECONDS)
    found.count(["now"])
    assert found.hottest() == ["now", "before"]


def test_only_so_many_are_known() -> None:
    found = popularity(10)
    for key in KEYS:
        found.count([key, "a", "b"])
    assert len(found.hottest()) == 10
    assert {*found.hottest()[:2]} == {"a", "b"}
    nothing = popularity(0)
    nothing.count(KEYS)
    assert nothing.hottest() == []


def test_a_key_that_is_read_evenly_has_that_rate() -> None:
    found = popularity(100)
    for _ in range(3000):  # ten half-lives
        found.count(["often"] * 20 + ["seldom"] * 2)
        found.tick(1.0)
    rates = found.rates(1)
    assert rates == {"often": pytest.approx(20, rel=0.05)}
    assert found.rates(2)["seldom"] == pytest.approx(2, rel=0.05)
