"""Three times as much as the system takes, for a minute: what is accepted, spilled and refused, how long writes take, how
much memory there is, and when all is as before.

    flood       the requests, and what came back       probe       when all is as before
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from benchmarks.context import SHARES, WARM_SECONDS, Context, cpu_used
from benchmarks.document import Figure, Goal, Part, figure
from benchmarks.figures import memory
from benchmarks.figures.overload.flood import BULK, SINGLE, Flood, Kind, Told
from benchmarks.figures.overload.probe import Probe, back_to_normal, probing
from benchmarks.load.wire import Result

TITLE = "Overload"
TIMES, SECONDS = 3.0, 60.0
MOST = "the maximum"
KEPT, OFFERED = Goal("ratio", "≥", 0.8), Goal("ratio", "≥", 2.9)
QUICK, SOON = Goal("value", "≤", 250), Goal("value", "≤", 5)
CALM = 50.0  # single increments a second beside the flood: how long those take that are accepted is the latency
LOW_SHARE = 0.1  # of the maximum, beside the flood: increments that may wait
POINTS = 60  # of a curve
LEAST_MEBIBYTES = 16.0  # growth by less than that is what happens to be under way, such as a large body


@contextlib.contextmanager
def watching(context: Context) -> Iterator[list[dict[str, float]]]:
    """Memory of each process, while the block runs."""
    samples: list[dict[str, float]] = []
    stop = threading.Event()
    watcher = threading.Thread(target=memory.watch, args=(context.subject, stop, samples), daemon=True)
    watcher.start()
    try:
        yield samples
    finally:
        stop.set()
        watcher.join()


@dataclass
class Outcome:
    """One kind, offered three times. Rates in increments a second; times in seconds."""

    kind: Kind
    most: list[float]
    offered: float
    accepted: float
    p99: float  # of accepted single increments
    back: float  # after the end
    memory: list[dict[str, float]] = field(default_factory=list)
    curve: list[dict[str, float | None]] = field(default_factory=list)
    cores: dict[str, float] = field(default_factory=dict)


def overloaded(context: Context, part: Part, kind: Kind, probes: Sequence[Probe]) -> Outcome:
    """The maximum, three times as much, and the maximum again: the machine may have changed its speed."""
    flood, calm = Flood(context, part, kind), Flood(context, part, SINGLE._replace(prefix=f"{kind.prefix}c"))
    context.tell(f"{kind.name}: {MOST}")
    flood.most(WARM_SECONDS)
    most = [flood.most()]
    rate = most[0] / kind.size
    context.tell(f"{kind.name}: {TIMES:g} times {most[0]:,.0f} increments/s")
    with watching(context) as samples, cpu_used(context.subject) as used, ThreadPoolExecutor(3) as pool:
        low = pool.submit(partial(flood.run, kind.connections, SECONDS, LOW_SHARE * rate, low=True))
        single = pool.submit(calm.run, SINGLE.connections, SECONDS, CALM)
        main = flood.run(kind.crowd, SECONDS, TIMES * rate)
        told = [main, low.result()]
        calmly = single.result()
    for one in told:
        flood.count(one)
    calm.count(calmly)
    seconds = SECONDS * context.scale
    end = main.result.started + seconds
    context.tell(f"{kind.name}: back to normal")
    back = back_to_normal(probes, end)
    flood.expected.compare()
    calm.expected.compare()
    context.tell(f"{kind.name}: {MOST}, again")
    most.append(flood.most())
    return Outcome(
        kind,
        most,
        offered=sum(one.offered for one in told) / seconds,
        accepted=sum(one.accepted for one in told) / max(seconds, main.result.seconds),
        p99=calmly.result.quantile(0.99),
        back=back,
        memory=samples,
        curve=_curve(told, calmly.result, seconds),
        cores={role: cpu / seconds for role, cpu in {**used, "load": main.result.cpu_seconds}.items()},
    )


def _curve(told: Sequence[Told], latencies: Result, seconds: float) -> list[dict[str, float | None]]:
    """What happened over time: increments a second, and latencies of accepted single increments in ms."""
    edges = np.linspace(0, seconds, POINTS + 1)
    each = [one.rates(edges) for one in told]
    rates = {name: np.sum([one[name] for one in each], axis=0) for name in each[0]}
    at, took = (np.frombuffer(data, np.float32) for data in (latencies.at, latencies.latencies))
    places = np.digitize(at, edges) - 1
    points: list[dict[str, float | None]] = []
    for place, second in enumerate(edges[:-1]):
        some = 1000 * took[places == place]
        quantiles = {f"p{q}_ms": float(np.percentile(some, q)) if len(some) else None for q in (50, 99)}
        points.append(
            {"second": float(second), **{name: float(rate[place]) for name, rate in rates.items()}, **quantiles}
        )
    return points


def run(context: Context) -> Part:
    """Single increments, then bodies."""
    part = Part()
    with probing(context, part) as probes:
        outcomes = [overloaded(context, part, kind, probes) for kind in (SINGLE, BULK)]
    part.figures = [one for outcome in outcomes for one in _figures(outcome)]
    part.curves = {outcome.kind.name: outcome.curve for outcome in outcomes}
    part.details = {
        SHARES: {outcome.kind.name: outcome.cores for outcome in outcomes},
        "MiB of each process": {
            outcome.kind.name: outcome.memory[:: max(1, len(outcome.memory) // POINTS)] for outcome in outcomes
        },
    }
    return part


def _figures(one: Outcome) -> list[Figure]:
    unit, name = "increments/s", f"{TITLE}, {one.kind.name}"
    grown = memory.growth(one.memory, LEAST_MEBIBYTES) if one.memory else {}
    worst = max(grown, key=lambda process: grown[process], default="")
    return [
        figure(f"{name}: offered", unit, [one.offered], peer=MOST, peer_samples=one.most[:1], goal=OFFERED),
        figure(
            f"{name}: accepted",
            unit,
            [one.accepted],
            peer=f"{MOST}, before and after",
            peer_samples=one.most,
            goal=KEPT,
        ),
        figure(f"{name}: p99 of accepted single increments", "ms", [1000 * one.p99], goal=QUICK),
        figure(f"{name}: back to normal after the end", "s", [one.back], goal=SOON),
        figure(
            f"{name}: memory of the process that grew most",
            "times (last quarter by second)",
            [grown.get(worst, 1.0)],
            goal=memory.FLAT,
            note=worst,
        ),
    ]
