"""Cost of an increment from 1 to 8 shards; the load grows with them."""

from __future__ import annotations

from benchmarks.context import Context, ExpectedCounts
from benchmarks.document import Part, figure
from benchmarks.figures.growth.cost import FLAT, TIMES, Meter, cluster
from benchmarks.load import keys, wire

SHARDS = (1, 2, 4, 8)
COUNTERS, BODY, BODIES = 10_000, 10_000, 16
BODIES_A_SECOND = 5.0  # for each shard


def run(context: Context, part: Part) -> None:
    """A cluster for each, without replicas: eight of them are enough processes for two cores."""
    points = []
    for count in SHARDS if context.scale >= 0.1 else SHARDS[:1]:
        context.tell(f"shards: {count}")
        with cluster(shards=count, replicas=0) as subject:
            expected = ExpectedCounts(context, f"n{context.run}:", part, subject)
            names = [f"{expected.prefix}{n}" for n in range(COUNTERS)]
            drawn = [keys.zipf(names, BODY, context.rng) for _ in range(BODIES)]
            headers = {"Authorization": f"Api-Key {subject.key}", "Content-Type": keys.MSGPACK}
            requests = [wire.http("POST", "/v1/increments", keys.body(keys.MSGPACK, some), headers) for some in drawn]
            meter = Meter(context, subject)
            meter.writes(requests, drawn, expected, BODIES_A_SECOND * count)  # warm
            cost = meter.writes(requests, drawn, expected, BODIES_A_SECOND * count)
            expected.compare()
            points.append({"shards": count, "increment_us": cost, "idle_cores": meter.idle})
    part.curves["shards"] = points
    costs = [point["increment_us"] for point in points]
    text = f"Growth: cost of one increment, 1 to {points[-1]['shards']:g} shards"
    note = f"{costs[0]:.2f} to {costs[-1]:.2f} µs; {BODIES_A_SECOND * BODY:,.0f} increments/s for each shard"
    part.figures.append(figure(text, TIMES, [max(costs) / min(costs)], goal=FLAT, note=note))
