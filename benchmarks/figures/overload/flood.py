"""A flood of requests of one kind, and what it was told, in increments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np

from benchmarks.context import Context, ExpectedCounts
from benchmarks.document import Part
from benchmarks.load import keys, wire
from benchmarks.load.wire import Lost, Result

REFUSALS = (429, 503)
MOST_SECONDS = 8.0
LOW = {"Priority": "u=7"}  # increments that may wait


class Kind(NamedTuple):
    """What is asked for: requests of `size` increments. `crowd`: connections of the flood, so many that it is not they
    that hold it up."""

    name: str
    prefix: str
    size: int
    counters: int
    drawn: int  # requests that differ
    connections: int
    crowd: int


SINGLE = Kind("single increments", "os", 1, 1_000, 20_000, 64, 512)
BULK = Kind("bulk", "ob", 10_000, 100_000, 64, 8, 64)


class Losses(NamedTuple):
    """Of an accepted write: how many increments were spilled, and how many of each key were refused."""

    at: float
    spilled: int
    refused: Counter[str]


def losses(lost: Lost, drawn: Sequence[str]) -> Losses:
    """What an answer says of a write with these keys."""
    told, counts = msgspec.json.decode(lost.body), Counter(drawn)
    refused = Counter({one["key"]: counts[one["key"]] for one in told.get("refused", ())})
    spilled = counts.total() if told.get("status") == "excess" else sum(counts[key] for key in told.get("excess", ()))
    return Losses(lost.at, spilled, refused)


@dataclass
class Told:
    """What a flood was told, in increments. `spilled` is a part of `accepted`."""

    result: Result
    size: int
    losses: list[Losses]

    @property
    def refused(self) -> Counter[str]:
        """By key, of writes that were accepted in part."""
        total: Counter[str] = Counter()
        for one in self.losses:
            total.update(one.refused)
        return total

    @property
    def accepted(self) -> int:
        return self.result.count * self.size - self.refused.total()

    @property
    def offered(self) -> int:
        return self.size * (self.result.count + sum(len(at) for at in self._whole_refusals()))

    def _whole_refusals(self) -> list[np.ndarray[Any, Any]]:
        return [np.frombuffer(at, np.float32) for at in self.result.refused.values()]

    def rates(self, edges: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """Increments a second between the edges (seconds from the start)."""

        def rate(at: Any, weights: Any = None) -> np.ndarray[Any, Any]:
            return np.histogram(at, edges, weights=weights)[0] / np.diff(edges)

        at = [one.at for one in self.losses]
        partly = rate(at, [one.refused.total() for one in self.losses])
        accepted = self.size * rate(np.frombuffer(self.result.at, np.float32)) - partly
        refused = self.size * sum(map(rate, self._whole_refusals()), np.zeros(len(edges) - 1)) + partly
        spilled = rate(at, [one.spilled for one in self.losses])
        return {"offered": accepted + refused, "accepted": accepted, "spilled": spilled, "refused": refused}


class Flood:
    """Requests of one kind, some of which may wait."""

    def __init__(self, context: Context, part: Part, kind: Kind) -> None:
        self.kind, self._context = kind, context
        self.expected = ExpectedCounts(context, f"{kind.prefix}{context.run}:", part, context.subject)
        names = [f"{self.expected.prefix}{n}" for n in range(kind.counters)]
        drawn = keys.zipf(names, kind.drawn * kind.size, context.rng)
        self._drawn = [drawn[start : start + kind.size] for start in range(0, len(drawn), kind.size)]
        self._requests, self._low = self._made({}), self._made(LOW)

    def _made(self, headers: Mapping[str, str]) -> list[bytes]:
        headers = {**self._context.authorization, **headers}
        if self.kind.size == 1:
            return [wire.increment(f"/v1/counters/{key}/increments", headers=headers) for (key,) in self._drawn]
        headers["Content-Type"] = keys.ARROW
        return [wire.http("POST", "/v1/increments", keys.body(keys.ARROW, some), headers) for some in self._drawn]

    def run(self, connections: int, seconds: float, rate: float = 0, *, low: bool = False) -> Told:
        """Send so many requests a second, 0 for the next as soon as an answer is there. What was accepted is to be counted
        (`count`) by one thread."""
        result = self._context.load(
            self._context.addresses(),
            self._low if low else self._requests,
            connections=connections,
            seconds=seconds,
            rate=rate,
            status=202,
            refusals=REFUSALS,
        )
        found = [losses(one, self._drawn[one.request]) for one in result.lost]
        return Told(result, self.kind.size, found)

    def count(self, told: Told) -> None:
        """Expect what was accepted."""
        self.expected.add(keys.counted(told.result.answered, self._drawn))
        self.expected.counts.subtract(told.refused)

    def most(self, seconds: float = MOST_SECONDS) -> float:
        """Increments a second when the next is sent as soon as an answer is there; all of them are on the replicas then."""
        told = self.run(self.kind.connections, seconds)
        self.count(told)
        self.expected.settled()
        return told.accepted / told.result.seconds
