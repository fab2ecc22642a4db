"""Circuit breakers: clocks that are set back, one call that tries, what an operator holds open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from runtime.breakers import Breaker, MemoryStorage, held
from runtime.seldom import Seldom
from sharding import breakers
from sharding.breakers import SharedStorage


class Down(Exception):
    """The component does not answer."""


class Refused(Exception):
    """The breaker is open."""


def breaker_of(storage: MemoryStorage, reset_seconds: int = 60) -> Breaker:
    return Breaker(
        "test",
        storage,
        failures=1,
        reset_seconds=reset_seconds,
        is_failure=lambda error: isinstance(error, Down),
        refusal=Refused,
    )


def fail() -> None:
    raise Down


def test_a_breaker_that_was_opened_in_the_future_lets_a_call_through() -> None:
    storage = MemoryStorage(STATE_CLOSED)
    breaker = breaker_of(storage)
    with pytest.raises(Refused):
        breaker.call(fail)
    with pytest.raises(Refused):
        breaker.call(lambda: 1)
    storage.opened_at = datetime.now(UTC) + timedelta(hours=1)  # the clock was set back by an hour since
    assert breaker.call(lambda: 1) == 1
    assert storage.state == STATE_CLOSED


def test_one_call_tries_a_component_and_the_others_are_refused_meanwhile() -> None:
    storage = MemoryStorage(STATE_CLOSED)
    breaker = breaker_of(storage)
    with pytest.raises(Refused):
        breaker.call(fail)
    storage.opened_at = datetime.now(UTC) - timedelta(minutes=2)
    assert breaker.state.name == STATE_HALF_OPEN
    entered, answered = threading.Semaphore(0), threading.Event()

    def hang() -> int:
        entered.release()
        assert answered.wait(30)
        return 7

    with ThreadPoolExecutor(9) as pool:
        probe = pool.submit(breaker.call, hang)
        assert entered.acquire(timeout=30)
        refused = [pool.submit(breaker.call, hang) for _ in range(8)]
        assert all(isinstance(one.exception(30), Refused) for one in refused)
        answered.set()
        assert probe.result(30) == 7
    assert breaker.state.name == STATE_CLOSED


def test_a_probe_that_fails_opens_the_breaker_again_and_the_next_one_may_try_after_the_reset() -> None:
    storage = MemoryStorage(STATE_CLOSED)
    breaker = breaker_of(storage, reset_seconds=1)
    for _ in range(2):
        with pytest.raises(Refused):
            breaker.call(fail)
        assert breaker.state.name == STATE_OPEN
        time.sleep(1.05)
    assert breaker.call(lambda: 1) == 1


def test_a_probe_that_never_ends_does_not_keep_others_from_trying() -> None:
    storage = MemoryStorage(STATE_HALF_OPEN)
    breaker = breaker_of(storage, reset_seconds=1)
    assert storage.may_probe(1)
    with pytest.raises(Refused):
        breaker.call(lambda: 1)
    time.sleep(1.05)
    assert breaker.call(lambda: 1) == 1


def test_what_an_operator_holds_open_lets_no_call_through_until_its_time_is_over() -> None:
    breaker = breaker_of(MemoryStorage(STATE_CLOSED))
    try:
        held().until = {"test": time.monotonic() + 60}
        with pytest.raises(Refused, match="by an operator"):
            breaker.call(lambda: 1)
        with pytest.raises(Refused, match="by an operator"), breaker.calling():
            pass
        held().until = {"test": time.monotonic() - 1, "other": time.monotonic() + 60}
        assert breaker.call(lambda: 1) == 1
    finally:
        held().until = {}


def test_a_redis_that_is_away_leaves_a_breaker_closed_and_fills_no_log(
    logged: Callable[[], list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breakers, "_seldom", Seldom())
    nobody = Redis(port=1, retry=Retry(NoBackoff(), 0))
    storage = SharedStorage(STATE_CLOSED, nobody, namespace="test")
    for _ in range(50):
        assert storage.state == STATE_CLOSED
        assert storage.opened_at is None
        storage.increment_counter()
        storage.opened_at = datetime.now(UTC)
    lines = logged()
    assert {line["event"] for line in lines} == {"breaker_state_unshared"}
    assert 1 <= len(lines) <= 5
    assert not any("exception" in line for line in lines)
