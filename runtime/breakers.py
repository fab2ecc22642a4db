"""Circuit breakers (pybreaker): while a component is down, one call waits for a time-out, not every call.

The breakers of the journal's Redis, the cache's Redis and the broker are here, in this process's memory. Those of the
shards are in `sharding.breakers`: all processes share their state.

An operator may hold a breaker open: `runtime.breaker_holds` tells this process which ones are held.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Lock, local
from typing import Any, NamedTuple, Protocol, TypeVar

import structlog
from kombu.exceptions import OperationalError as BrokerError
from prometheus_client import Counter
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout

from runtime.hidden import hidden
from runtime.resources import owned

with hidden("tornado"):  # pybreaker imports it, if it can, for coroutines of another kind
    from pybreaker import (
        STATE_CLOSED,
        STATE_HALF_OPEN,
        STATE_OPEN,
        CircuitBreaker,
        CircuitBreakerError,
        CircuitBreakerListener,
        CircuitMemoryStorage,
    )

T = TypeVar("T")

FAILURES = Counter("tally_component_failures_total", "Calls that failed for the connection's sake", ["component"])
STATES = (STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN)
SKEW = timedelta(seconds=1)  # by which clocks that are right may differ
log = structlog.get_logger(__name__)


class Storage(Protocol):
    """Where the state of a breaker is kept: a storage of pybreaker that also says who may try a component."""

    state: str

    @property
    def opened_at(self) -> datetime | None: ...

    def reset_counter(self) -> None: ...

    def may_probe(self, seconds: int) -> bool:
        """Whether the caller is the one that may call a component whose breaker is half-open. Nobody else may for
        `seconds`."""


class State(NamedTuple):
    """`name` is one of `STATES`; a breaker that would let a call through to try its component is half-open. `since`:
    when a breaker that is not closed was last opened, None if that is not known."""

    name: str
    since: datetime | None


class Held:
    """Until when this process refuses calls because an operator holds their breaker open, by the breaker's name
    (monotonic seconds)."""

    def __init__(self) -> None:
        self.until: Mapping[str, float] = {}

    def has(self, name: str) -> bool:
        """Whether a breaker is held open."""
        return name in self.until and self.until[name] > time.monotonic()


@owned
def held() -> Held:
    """The breakers that are held open."""
    return Held()


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
        storage: Storage,
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
        self._refuse_if_held()
        try:
            return self._of_this_thread().call(function)
        except CircuitBreakerError as error:
            raise self._refusal(f"{self.name} is down: {error}") from error

    @contextmanager
    def calling(self) -> Iterator[None]:
        """`call` for a block, which may await. Raises the refusal."""
        self._refuse_if_held()
        try:
            with self._of_this_thread().calling():
                yield
        except CircuitBreakerError as error:
            raise self._refusal(f"{self.name} is down: {error}") from error

    @property
    def state(self) -> State:
        """Its state, whether it is held open or not."""
        name, since = self._storage.state, self._storage.opened_at
        if name == STATE_CLOSED:
            return State(name, None)
        waits = since is not None and datetime.now(UTC) < since + timedelta(seconds=self._reset_seconds)
        return State(STATE_OPEN if name == STATE_OPEN and waits else STATE_HALF_OPEN, since)

    def close(self) -> None:
        """Let calls through, whatever the last ones met."""
        self._storage.reset_counter()
        self._storage.state = STATE_CLOSED

    def _refuse_if_held(self) -> None:
        if held().has(self.name):
            raise self._refusal(f"{self.name} was taken out of use by an operator")

    def _of_this_thread(self) -> CircuitBreaker:
        breaker: CircuitBreaker | None = getattr(self._threads, "breaker", None)
        if breaker is None:
            breaker = self._threads.breaker = CircuitBreaker(
                fail_max=self._failures,
                reset_timeout=self._reset_seconds,
                exclude=[lambda error: not self._is_failure(error)],
                listeners=[_Listener(self._storage)],
                name=self.name,
                state_storage=self._storage,  # type: ignore[arg-type]  # one of pybreaker's
            )
        return breaker


class MemoryStorage(CircuitMemoryStorage):
    """pybreaker's storage, for a clock that may be set back."""

    def __init__(self, state: str) -> None:
        super().__init__(state)
        self._probed_until = 0.0  # monotonic seconds
        self._lock = Lock()

    def may_probe(self, seconds: int) -> bool:
        now = time.monotonic()
        with self._lock:
            if now < self._probed_until:
                return False
            self._probed_until = now + seconds
        return True

    @property
    def opened_at(self) -> datetime | None:
        return unless_future(self._opened_at)

    @opened_at.setter
    def opened_at(self, at: datetime) -> None:
        self._opened_at = at


def unless_future(opened_at: datetime | None, skew: timedelta = SKEW) -> datetime | None:
    """When a breaker was opened; None if that is in the future. Then the clock was set back since, or is wrong in the
    process that opened it, and the breaker would stay open until that time."""
    return None if opened_at and opened_at > datetime.now(UTC) + skew else opened_at


class BeingTried(CircuitBreakerError):
    """The component may be back: another call finds that out now."""


class _Listener(CircuitBreakerListener):
    """pybreaker lets every call through that finds a breaker half-open: so all of them would wait for a component that
    hangs. This lets one through."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def before_call(self, cb: CircuitBreaker, func: object, *_args: Any, **_options: Any) -> None:  # noqa: ARG002
        # `cb.state` would ask the storage again.
        if cb._state.name == STATE_HALF_OPEN and not self._storage.may_probe(int(cb.reset_timeout)):
            raise BeingTried("Another call tries it now")

    def failure(self, cb: CircuitBreaker, exc: BaseException) -> None:
        FAILURES.labels(cb.name).inc()
        log.warning("component_failed", component=cb.name, error=str(exc).strip())


def _in_memory(name: str, reset_seconds: int) -> Breaker:
    """A breaker for this process alone, which one failure opens."""
    return Breaker(
        name,
        MemoryStorage(STATE_CLOSED),
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
