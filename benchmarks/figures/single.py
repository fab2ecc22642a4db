"""One increment a request, 64 connections, 1,000 keys; an answer means that it is durable."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable

from benchmarks import checks
from benchmarks.context import (
    SHARES,
    WARM_SECONDS,
    Address,
    Context,
    ExpectedCounts,
    Shares,
    cpu_used,
    increments,
    note,
)
from benchmarks.document import Goal, Part, figure
from benchmarks.load import keys, wire
from benchmarks.load.wire import Result
from benchmarks.peers import house

TITLE = "One increment a request"
KEYS, REQUESTS, CONNECTIONS = 1_000, 20_000, 64
SECONDS, CELERY_SECONDS = 6.0, 3.0
TALLY, DJANGO, FASTAPI, CELERY = (
    "Tally",
    "Django + DRF, F() update",
    "FastAPI + Redis INCRBY (not durable)",
    "a Celery task for each write",
)
GOALS = {DJANGO: Goal("ratio", "≥", 5), FASTAPI: Goal("ratio", "≥", 1.2)}
WORKER = (
    "-m",
    "celery",
    "-A",
    "benchmarks.peers.celery_task",
    "worker",
    "-c",
    "2",
    "-l",
    "WARNING",
    "--without-gossip",
    "--without-mingle",
)


class Single:
    """The same draws of the same keys for everybody."""

    def __init__(self, context: Context, part: Part, prefix: str = "s") -> None:
        self.context, self.part = context, part
        self.expected = ExpectedCounts(context, f"{prefix}{context.run}:", part, context.subject)
        self.names = [f"{self.expected.prefix}{n}" for n in range(KEYS)]
        self.drawn = keys.zipf(self.names, REQUESTS, context.rng)
        self._mine = increments(context, self.drawn)
        self._theirs = [wire.increment(f"/counters/{key}/increments") for key in self.drawn]
        self.shares = Shares()
        self.behind: list[float] = []  # seconds from the last answer until the replicas had it all
        self.latencies: list[float] = []

    def fill(self) -> None:
        """Increment each key once and wait until the replicas have it. Raises `RuntimeError`, `TimeoutError`."""
        connection = self.context.subject.wire()
        answer = connection.ask("POST", "/v1/increments", keys.body(keys.JSON, self.names), {"Content-Type": keys.JSON})
        connection.close()
        if answer.status != 202:
            raise RuntimeError(f"answered {answer.status}")
        self.expected.add(dict.fromkeys(self.names, 1))
        self.expected.settled()

    def _counted(self, answered: list[int]) -> Counter[str]:
        return keys.counted(answered, [[key] for key in self.drawn])

    def tally(self, seconds: float = SECONDS) -> float:
        """Increments a second; the replicas have them all when it returns."""
        with cpu_used(self.context.subject) as used:
            result = self.context.load(
                self.context.addresses(), self._mine, connections=CONNECTIONS, seconds=seconds, status=202
            )
            answered = result.started + result.seconds
            self.expected.add(self._counted(result.answered))
            settled = self.expected.settled()
        self.behind.append(max(0.0, settled - answered))
        self.latencies.append(result.quantile(0.99))
        self.shares.add(used, result, result.seconds)
        return result.rate

    def peer(
        self, addresses: list[Address], expected: Counter[str], status: int = 200, seconds: float = SECONDS
    ) -> Result:
        """The load on a peer; `expected` grows."""
        result = self.context.load(addresses, self._theirs, connections=CONNECTIONS, seconds=seconds, status=status)
        expected.update(self._counted(result.answered))
        return result


def run(context: Context) -> Part:
    """Tally and three peers."""
    part = Part()
    single = Single(context, part)
    with contextlib.ExitStack() as stack:
        sides = {
            TALLY: single.tally,
            DJANGO: _django(single, stack),
            FASTAPI: _fastapi(single, stack),
            CELERY: _celery(single, stack),
        }
        context.tell("warm-up")
        single.tally(WARM_SECONDS)
        samples = context.interleaved(sides)
        context.tell("every count")
        single.expected.compare()
    part.figures = [
        figure(
            f"{TITLE}, beside {name}",
            "increments/s",
            samples[TALLY],
            peer=name,
            peer_samples=samples[name],
            goal=GOALS.get(name),
        )
        for name in (DJANGO, FASTAPI, CELERY)
    ]
    part.figures[-1].note = "the peer's rate is that of its worker, to the last commit"
    part.details = {
        SHARES: single.shares.medians(),
        "p99 in seconds": single.latencies,
        "seconds until the replicas had it all": single.behind,
    }
    return part


def _django(single: Single, stack: contextlib.ExitStack) -> Callable[[], float]:
    """The rows are there beforehand; the same granian, two processes."""
    database = stack.enter_context(house.database(single.context.subject, "bench_django", single.names))
    app = "benchmarks.peers.naive_django:application"
    addresses = stack.enter_context(house.server(single.context, app, house.GRANIAN, database.environment))
    expected: Counter[str] = Counter()
    stack.callback(lambda: note(single.part, DJANGO, checks.unequal(database.counts(), expected), expected))
    single.peer(addresses, expected, seconds=WARM_SECONDS)
    return lambda: single.peer(addresses, expected).rate


def _fastapi(single: Single, stack: contextlib.ExitStack) -> Callable[[], float]:
    """A Redis without persistence."""
    url = stack.enter_context(house.redis(single.context))
    app = "benchmarks.peers.fastapi_redis:app"
    addresses = stack.enter_context(house.server(single.context, app, house.UVICORN, {"BENCH_REDIS": url}))
    expected: Counter[str] = Counter()
    stack.callback(
        lambda: note(single.part, FASTAPI, checks.unequal(house.redis_counts(url, list(expected)), expected), expected)
    )
    single.peer(addresses, expected, seconds=WARM_SECONDS)
    return lambda: single.peer(addresses, expected).rate


def _celery(single: Single, stack: contextlib.ExitStack) -> Callable[[], float]:
    """A Redis with AOF as broker, a worker of two processes. What counts is the rate at which increments are
    committed."""
    context = single.context
    database = stack.enter_context(house.database(context.subject, "bench_celery", single.names))
    url = stack.enter_context(house.redis(context, *house.AOF))
    environment = {**database.environment, "BENCH_REDIS": url}
    stack.enter_context(house.process([sys.executable, *WORKER], context.directory / "celery-worker.log", environment))
    app = "benchmarks.peers.celery_task:application"
    addresses = stack.enter_context(house.server(context, app, house.GRANIAN, environment))
    expected: Counter[str] = Counter()
    stack.callback(lambda: note(single.part, CELERY, checks.unequal(database.counts(), expected), expected))

    def measure(seconds: float = CELERY_SECONDS) -> float:
        result = single.peer(addresses, expected, 202, seconds)
        return result.count / (house.wait_for_sum(database, expected.total()) - result.started)

    measure(WARM_SECONDS)
    return measure
