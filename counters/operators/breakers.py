"""The circuit breakers for operators: their states, and opening and closing them by hand, which is recorded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from pybreaker import STATE_OPEN
from redis.exceptions import RedisError

from replication import interventions
from replication.interventions import Order
from runtime import breaker_holds, breakers
from runtime.breakers import Breaker
from sharding import breakers as of_shards
from sharding import databases


@dataclass(frozen=True, slots=True)
class Row:
    """A breaker. `held`: an operator holds it open, `by` and `reason` say who and why, and `until` for how long, None
    for until it is closed. `shared`: its state is that of all processes, not of this one. `since`: when it was opened."""

    name: str
    state: str
    shared: bool
    since: datetime | None = None
    held: bool = False
    until: datetime | None = None
    by: str = ""
    reason: str = ""

    @property
    def pk(self) -> str:
        return self.name


class UnknownBreaker(Exception):
    """There is no breaker of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no breaker {name!r}: there are {', '.join(_all())}")


def overview() -> list[Row]:
    """Every breaker. Raises `RedisError`."""
    holds = breaker_holds.known()
    shared = {breaker.name for breaker in of_shards.every()}
    return [_row(breaker, holds.get(name), name in shared) for name, breaker in _all().items()]


def unheld() -> list[Row]:
    """Every breaker as this process has it, while nobody can say what is held open."""
    shared = {breaker.name for breaker in of_shards.every()}
    return [_row(breaker, None, name in shared) for name, breaker in _all().items()]


def hold(name: str, order: Order, seconds: float | None = None) -> None:
    """Hold a breaker open for so many seconds, or until it is closed. All processes follow within seconds. Raises
    `UnknownBreaker`, `RedisError`."""
    _named(name)
    with interventions.recorded(_shard_of(name), "open breaker", order, name) as record:
        breaker_holds.hold(name, seconds, by=order.by, reason=order.reason)
        record.outcome = "open until it is closed" if seconds is None else f"open for {seconds:g} s"


def close(name: str, order: Order) -> None:
    """Hold a breaker open no longer, and close it. All processes follow within seconds; each closes its own breaker of
    the journal, the cache or the broker after the next call that is answered. Raises `UnknownBreaker`, `RedisError`."""
    breaker = _named(name)
    with interventions.recorded(_shard_of(name), "close breaker", order, name) as record:
        breaker_holds.release(name)
        breaker.close()
        record.outcome = "closed"


def states() -> list[tuple[str, str, bool]]:
    """Name, state and whether it is held, of every breaker; without the journal's Redis, none is known to be held."""
    try:
        holds = breaker_holds.known().keys()
    except RedisError:
        holds = {}.keys()
    return [(name, breaker.state.name, name in holds) for name, breaker in _all().items()]


def _all() -> dict[str, Breaker]:
    own = (breakers.journal(), breakers.cache(), breakers.broker())
    return {breaker.name: breaker for breaker in (*of_shards.every(), *own)}


def _named(name: str) -> Breaker:
    found = _all().get(name)
    if found is None:
        raise UnknownBreaker(name)
    return found


def _shard_of(name: str) -> int | None:
    return databases.shard_of(name) if name.startswith("shard-") else None


def _row(breaker: Breaker, held: breaker_holds.Hold | None, shared: bool) -> Row:
    if held is None:
        state = breaker.state
        return Row(breaker.name, state.name, shared, state.since)
    until = None if held.until is None else _at(held.until)
    return Row(breaker.name, STATE_OPEN, shared, _at(held.since), True, until, held.by, held.reason)


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
