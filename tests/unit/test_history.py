"""The last minutes from pulses, and what counts as an event."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from counters.operators.history import BUCKET_SECONDS, BUCKETS, Change, History, changes
from runtime.pulses import Heard, Pulse

NOW = 1_000_000.0  # the start of a bucket


def api(at: float, process: str = "api-1", seconds: float = 1.0, **gains: float) -> Heard:
    return Heard(at, Pulse("api", process, seconds, gains))


def told(*heard: Heard) -> History:
    history = History()
    history.add(sorted(heard, key=lambda one: one.at))
    history.forget(NOW)
    return history


def test_a_rate_is_what_all_processes_gain() -> None:
    history = told(
        api(NOW - 3, increments=100),
        api(NOW - 1, increments=10, seconds=2.0),
        api(NOW - 1, "api-2", increments=7),
        api(NOW - 30, "api-3", increments=1000),
    )
    assert history.rate("increments", NOW) == 5 + 7, "the last pulse of each that still tells"
    assert history.rates("increments", NOW)[-1] == 117 / BUCKET_SECONDS
    assert history.rates("requests", NOW)[-1] is None, "nobody told of those"
    assert history.rate("requests", NOW) is None
    assert history.rates("increments", NOW)[-2] is None, "nobody told"


@given(st.lists(st.tuples(st.floats(NOW - 400, NOW - 0.001), st.integers(1, 1000)), max_size=50))
def test_nothing_that_was_told_in_time_is_missing(gains: list[tuple[float, int]]) -> None:
    history = told(*(api(at, increments=gain) for at, gain in sorted(gains)))
    shown = history.rates("increments", NOW)
    assert len(shown) == BUCKETS
    in_time = sum(gain for at, gain in gains if at >= NOW - BUCKETS * BUCKET_SECONDS)
    assert round(sum(rate or 0 for rate in shown) * BUCKET_SECONDS) == in_time


def test_a_level_is_the_highest_of_its_time() -> None:
    looks = (Pulse("look", "api-1", levels={"backlog": level}) for level in (3, 9, 4))
    history = told(*(Heard(NOW - 4 + number, look) for number, look in enumerate(looks)))
    assert history.levels("backlog", NOW)[-2:] == [None, 9]


def test_a_process_that_is_silent_is_known_for_a_while() -> None:
    others = (api(NOW - ago, "api-2") for ago in range(90, 0, -1))
    history = told(api(NOW - 400, "api-0"), api(NOW - 60, "api-1"), *others)
    assert [(one.name, one.silent, one.tells) for one in history.processes(NOW)] == [
        ("api-1", 60, False),
        ("api-2", 1, True),
    ]


def test_nobody_is_silent_who_could_not_tell() -> None:
    """The cache stood still for a minute, and api-1 is the first to tell again."""
    history = told(api(NOW - 61, "api-1"), api(NOW - 61, "api-2"), api(NOW - 1, "api-1"))
    assert history.listened("api", NOW) == 1
    assert history.listened("api", NOW + 5) == 0, "nobody asks any more"
    assert history.listened("worker", NOW) == 0


def test_the_hottest_counters_of_all_processes() -> None:
    pulses = ({"a": 5.0, "b": 4.0}, {"b": 3.0, "c": 6.0})
    history = told(*(Heard(NOW - 1, Pulse("api", f"api-{n}", hot=hot)) for n, hot in enumerate(pulses)))
    assert history.hottest(2) == {"b": 7.0, "c": 6.0}
    history.forget(NOW + 60)
    assert history.hottest(2) == {}


def test_an_event_is_a_change_of_what_was_known() -> None:
    before = {"cache": "up", "etcd": "up", "gone": "up"}
    now = {"cache": ("down", "no answer in time"), "etcd": ("up", ""), "new": ("down", "")}
    assert changes(before, now, 7.0) == [Change(7.0, "cache", "up", "down", "no answer in time")]
