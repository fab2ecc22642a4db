"""Pulses: processes tell what they have done, so that others can show it. Workers do so about once a second, API
processes when somebody asks.

They are a stream in the cache's Redis, by the clock of that Redis. A pulse is a hint (I4): it is for people, nothing is
decided by it, and it is lost with the cache and missing while that is down.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
from prometheus_client.metrics_core import Metric

from runtime import redis

KEPT_SECONDS = 330
ASKED = "pulses:asked"  # a channel of the cache's Redis
_FORGOTTEN_SECONDS = 5.0  # after which what was gained since the last time is not told: it was not gained now
_KEY = "pulses"
_PAGE = 2000  # pulses of one answer


class Pulse(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a process tells. `gains`: what it has done in the last `seconds`, `levels`: figures as it sees them now, both
    by name. `hot`: reads a second by counter."""

    kind: str
    process: str
    seconds: float = 1.0
    gains: dict[str, float] = {}
    levels: dict[str, float] = {}
    hot: dict[str, float] = {}


class Heard(NamedTuple):
    """A pulse and when it was told, in Unix time of the cache's Redis."""

    at: float
    pulse: Pulse


class Collects(Protocol):
    """A metric of `prometheus_client`."""

    def collect(self) -> Iterable[Metric]: ...


class Teller:
    """Tells what a process's counters have gained. Not thread-safe."""

    def __init__(self, kind: str, process: str, counters: Mapping[str, Iterable[Collects]]) -> None:
        """`counters`: Prometheus counters whose sum is told, by the name of the sum."""
        self._kind, self._process, self._counters = kind, process, counters
        self._told, self._told_at = self._totals(), time.monotonic()

    def tell(self, hot: Mapping[str, float] | None = None) -> None:
        """Tell what was gained since the last time that worked, if that was just now. Raises `RedisError`."""
        totals, now = self._totals(), time.monotonic()
        seconds = now - self._told_at
        gains = {name: total - self._told[name] for name, total in totals.items()}
        is_recent = seconds < _FORGOTTEN_SECONDS
        tell(Pulse(self._kind, self._process, seconds, gains if is_recent else {}, hot=dict(hot or {})))
        self._told, self._told_at = totals, now

    def _totals(self) -> dict[str, float]:
        return {name: sum(map(_total, counters)) for name, counters in self._counters.items()}


def tell(pulse: Pulse) -> None:
    """Raises `RedisError`."""
    redis.cache_script(Path(__file__).parent, "pulse")([_KEY], [msgspec.json.encode(pulse), KEPT_SECONDS])


def ask() -> None:
    """Have the API processes tell. Raises `RedisError`."""
    redis.cache().publish(ASKED, b"")


def since(id: str) -> tuple[str, list[Heard]]:
    """What was told after a place in the stream ("0": all of it), and the place of the last of it. Raises
    `RedisError`."""
    found: list[Heard] = []
    while True:
        page: list[Any] = redis.cache().xrange(_KEY, f"({id}", count=_PAGE) or []
        found += [_heard(place, fields) for place, fields in page]
        id = page[-1][0].decode() if page else id
        if len(page) < _PAGE:
            return id, found


def _heard(place: bytes, fields: Mapping[bytes, bytes]) -> Heard:
    return Heard(int(place.partition(b"-")[0]) / 1000, msgspec.json.decode(fields[b"told"], type=Pulse))


def _total(counter: Collects) -> float:
    """The sum over a counter's labels."""
    return sum(
        sample.value for family in counter.collect() for sample in family.samples if sample.name.endswith("_total")
    )
