"""Cost of a flush with 1 to 4 API processes: the time that the journal's Redis needs for one, at the same number of
writes a second."""

from __future__ import annotations

from typing import Any

from benchmarks.chaos.subject import Subject
from benchmarks.context import Context, ExpectedCounts, increments
from benchmarks.document import Part, figure
from benchmarks.figures.growth.cost import FLAT, TIMES, Meter
from benchmarks.scaling import scale

APIS = (1, 2, 4)
KEYS = 1_000
WRITES_A_SECOND = 1_000.0
SCRIPTS = ("cmdstat_evalsha", "cmdstat_fcall", "cmdstat_eval")


def flushes(subject: Subject) -> tuple[int, int]:
    """Scripts that the journal's Redis has run, and the microseconds that took."""
    statistics: dict[str, Any] = subject.journal.info("commandstats")
    found = [statistics[name] for name in SCRIPTS if name in statistics]
    return sum(one["calls"] for one in found), sum(one["usec"] for one in found)


def run(context: Context, part: Part) -> None:
    """On the cluster of the run, which gets its API processes back."""
    subject, points = context.subject, []
    before = subject.count("api")
    expected = ExpectedCounts(context, f"f{context.run}:", part, subject)
    names = [f"{expected.prefix}{n}" for n in range(KEYS)]
    requests, drawn = increments(context, names), [[name] for name in names]
    try:
        for count in APIS:
            context.tell(f"API processes: {count}")
            scale(subject, "api", count)
            meter = Meter(context, subject)
            meter.writes(requests, drawn, expected, WRITES_A_SECOND)  # warm
            calls, microseconds = flushes(subject)
            cost = meter.writes(requests, drawn, expected, WRITES_A_SECOND)
            calls, microseconds = (
                after - one for after, one in zip(flushes(subject), (calls, microseconds), strict=True)
            )
            points.append(
                {"processes": count, "flush_us": microseconds / max(1, calls), "flushes": calls, "increment_us": cost}
            )
    finally:
        scale(subject, "api", before)
    expected.compare()
    part.curves["processes"] = points
    costs = [point["flush_us"] for point in points]
    text = f"Growth: cost of a flush, {APIS[0]} to {APIS[-1]} API processes"
    note = f"{costs[0]:.0f} to {costs[-1]:.0f} µs in the journal's Redis"
    part.figures.append(figure(text, TIMES, [max(costs) / min(costs)], goal=FLAT, note=note))
