"""Add and get: sixteen clients that want to know what their increment of the same key made of it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable

from benchmarks import checks
from benchmarks.context import SHARES, WARM_SECONDS, Context, ExpectedCounts, Shares, cpu_used, note
from benchmarks.document import Goal, Part, figure
from benchmarks.load import wire
from benchmarks.peers import house

TITLE = "Add and get, one key"
CLIENTS, SECONDS = 16, 5.0
IDLE_RATE, IDLE_SECONDS = 20.0, 10.0  # requests a second by which nothing else has to wait
TALLY, LOCK = "Tally", "optimistic lock (FastAPI, Redis WATCH, not durable)"


def run(context: Context) -> Part:
    """Tally beside the optimistic lock, then Tally when idle."""
    part = Part()
    expected = ExpectedCounts(context, f"w{context.run}:", part, context.subject)
    key = f"{expected.prefix}hot"
    request = wire.increment(f"/v1/counters/{key}/increments?wait=10", headers=context.authorization)
    shares = Shares()

    def tally(seconds: float = SECONDS) -> float:
        with cpu_used(context.subject) as used:
            result = context.load(context.addresses(), [request], connections=CLIENTS, seconds=seconds)
        expected.add({key: result.count})
        shares.add(used, result, result.seconds)
        return result.rate

    with contextlib.ExitStack() as stack:
        sides = {TALLY: tally, LOCK: _lock(context, part, key, stack)}
        tally(WARM_SECONDS)
        samples = context.interleaved(sides)
    context.tell("idle")
    idle = context.load(context.addresses(), [request], connections=CLIENTS, seconds=IDLE_SECONDS, rate=IDLE_RATE)
    expected.add({key: idle.count})
    expected.compare()
    quick = Goal("value", "≤", 15)
    part.figures = [
        figure(
            f"{TITLE}, {CLIENTS} clients",
            "writes/s",
            samples[TALLY],
            peer=LOCK,
            peer_samples=samples[LOCK],
            goal=Goal("ratio", "≥", 2),
        ),
        figure(
            f"{TITLE}, p50 when idle", "ms", [1000 * idle.quantile(0.5)], goal=quick, note=f"{IDLE_RATE:g} a second"
        ),
    ]
    part.details["p99 in ms when idle"] = 1000 * idle.quantile(0.99)
    part.details[SHARES] = shares.medians()
    return part


def _lock(context: Context, part: Part, key: str, stack: contextlib.ExitStack) -> Callable[[], float]:
    url = stack.enter_context(house.redis(context))
    addresses = stack.enter_context(
        house.server(context, "benchmarks.peers.optimistic:app", house.UVICORN, {"BENCH_REDIS": url})
    )
    expected: Counter[str] = Counter()
    stack.callback(lambda: note(part, LOCK, checks.unequal(house.redis_counts(url, [key]), expected), expected))
    request = wire.increment(f"/counters/{key}/increments")

    def measure(seconds: float = SECONDS) -> float:
        result = context.load(addresses, [request], connections=CLIENTS, seconds=seconds)
        expected[key] += result.count
        return result.rate

    measure(WARM_SECONDS)
    return measure
