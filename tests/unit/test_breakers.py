"""Circuit breakers and clocks that are set back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pybreaker import STATE_CLOSED

from runtime.breakers import Breaker, MemoryStorage


class Down(Exception):
    """The component does not answer."""


class Refused(Exception):
    """The breaker is open."""


def test_a_breaker_that_was_opened_in_the_future_lets_a_call_through() -> None:
    storage = MemoryStorage(STATE_CLOSED)
    breaker = Breaker(
        "test", storage, failures=1, reset_seconds=60, is_failure=lambda error: isinstance(error, Down), refusal=Refused
    )

    def fail() -> None:
        raise Down

    with pytest.raises(Refused):
        breaker.call(fail)
    with pytest.raises(Refused):
        breaker.call(lambda: 1)
    storage.opened_at = datetime.now(UTC) + timedelta(hours=1)  # the clock was set back by an hour since
    assert breaker.call(lambda: 1) == 1
    assert storage.state == STATE_CLOSED
