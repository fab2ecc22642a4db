"""Circuit breakers (pybreaker): while a component is down, one call waits for a time-out, not every call.

The breakers of the journal's Redis, the cache's Redis and the broker are here, in this process's memory. Those of the
shards are in `sharding.breakers`: all processes share their state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import local
from typing import TypeVar

import structlog
from kombu.exceptions import OperationalError as BrokerError
from prometheus_client import Counter, Gauge
from pybreaker import (
    STATE_CLOSED,
    CircuitBreaker,
    CircuitBreakerError,
    CircuitBreakerListener,
    CircuitBreakerStorage,
    CircuitMemoryStorage,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout

from runtime.resources import owned

T = TypeVar("T")

FAILURES = Counter("tally_component_failures_total", "Calls that failed for the connection's sake", ["component"])
OPEN = Gauge(
    "tally_breaker_open", "1 while the breaker of this component is open, as this process last saw it", ["component"]
)
log = structlog.get_logger(__name__)


class Breaker:
    """The breaker of one component. `failures` in a row open it, and after `reset_seconds` it lets one call through.

    An exception counts as a failure if `is_failure` returns True, which it should only for connection errors. While the
    breaker is open, a call raises `refusal(sentence)`.

    pybreaker holds an object's lock for the whole call, so one object would let through one thread at a time. So each
    thread has its own object over the shared `storage`.
    """

    def __init__(  # noqa: PLR0913 - one for each thing that breakers differ in
        self,
        name: str,
        storage: CircuitBreakerStorage,
        *,
        failures: int,
        reset_seconds: int,
        is_failure: Callable[[BaseException], bool],
        refusal: Callable[[str], Exception],
    ) -> None:
        self.name = name
        self._storage, self._failures, self._reset_seconds = storage, failures, reset_seconds
        self._is_failure, self._refusal = is_failure, refusal
        self._threads = local()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function and return its result. Raises what the function raises, or the refusal."""
        try:
            return self._of_this_thread().call(function)
        except CircuitBreakerError as error:
            raise self._refusal(f"{self.name} is down: {error}") from error

    @contextmanager
    def calling(self) -> Iterator[None]:
        """`call` for a block, which may await. Raises the refusal."""
        try:
            with self._of_this_thread().calling():
                yield
        except CircuitBreakerError as error:
            raise self._refusal(f"{self.name} is down: {error}") from error

    def _of_this_thread(self) -> CircuitBreaker:
        breaker: CircuitBreaker | None = getattr(self._threads, "breaker", None)
        if breaker is None:
            breaker = self._threads.breaker = CircuitBreaker(
                fail_max=self._failures,
                reset_timeout=self._reset_seconds,
                exclude=[lambda error: not self._is_failure(error)],
                listeners=[_Listener()],
                name=self.name,
                state_storage=self._storage,
            )
        return breaker


class _Listener(CircuitBreakerListener):
    def state_change(self, cb: CircuitBreaker, _old_state: object, new_state: object) -> None:
        OPEN.labels(cb.name).set(getattr(new_state, "name", "") == "open")

    def failure(self, cb: CircuitBreaker, exc: BaseException) -> None:
        FAILURES.labels(cb.name).inc()
        log.warning("component_failed", component=cb.name, error=str(exc).strip())


def _in_memory(name: str, reset_seconds: int) -> Breaker:
    """A breaker for this process alone, which one failure opens."""
    return Breaker(
        name,
        CircuitMemoryStorage(STATE_CLOSED),
        failures=1,
        reset_seconds=reset_seconds,
        is_failure=lambda error: isinstance(error, RedisConnectionError | RedisTimeout | OSError | BrokerError),
        refusal=RedisConnectionError,
    )


@owned
def journal() -> Breaker:
    """The breaker of the journal's Redis."""
    return _in_memory("journal", 1)


@owned
def cache() -> Breaker:
    """The breaker of the cache's Redis."""
    return _in_memory("cache", 1)


@owned
def broker() -> Breaker:
    """The breaker of Celery's broker."""
    return _in_memory("broker", 5)  # a hanging broker blocks its caller for longer than a hanging Redis
