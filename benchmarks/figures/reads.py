"""Cached reads beside an empty view on the same server, their latency against the load, and a hundred keys in one
request."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from benchmarks.context import SHARES, Address, Context, Shares, cpu_used
from benchmarks.document import Goal, Part, figure, median_and_spread
from benchmarks.figures.single import Single
from benchmarks.load import wire
from benchmarks.peers import house

TITLE = "Cached reads"
CONNECTIONS, SECONDS, CURVE_SECONDS = 64, 5.0, 5.0
MANY = 100  # keys in one multi-get
RATES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of the maximum, for the curve
TALLY, EMPTY = "Tally", "an empty Django view"
MULTI_GET = f"Tally, {MANY} keys a request"


def run(context: Context) -> Part:
    """Reads of keys that were just written."""
    part = Part()
    single = Single(context, part, prefix="r")
    single.fill()
    one = [wire.http("GET", f"/v1/counters/{key}", headers=context.authorization) for key in single.drawn]
    theirs = [request.replace(b"/v1/", b"/") for request in one]
    many = [_multi_get(context, single.drawn[start : start + MANY]) for start in range(0, len(single.drawn), MANY)]
    shares = Shares()
    with contextlib.ExitStack() as stack:
        empty = stack.enter_context(house.server(context, "benchmarks.peers.empty_view:application", house.UVICORN))
        sides = {
            TALLY: _side(context, context.addresses(), one, shares),
            EMPTY: _side(context, empty, theirs),
            MULTI_GET: _side(context, context.addresses(), many),
        }
        context.tell("warm-up")
        for side in sides.values():
            side()
        shares.samples.clear()
        samples = context.interleaved(sides)
        most = median_and_spread(samples[TALLY])[0]
        part.curves["latency"] = _curve(context, TALLY, context.addresses(), one, most)
        part.curves["latency of an empty view"] = _curve(context, EMPTY, empty, theirs, most)
    context.tell("every count")
    single.expected.compare()
    half, its_half = (_at(part.curves[name], 0.5) for name in ("latency", "latency of an empty view"))
    values = [rate * MANY for rate in samples[MULTI_GET]]
    part.figures = [
        figure(
            f"{TITLE}, one key",
            "reads/s",
            samples[TALLY],
            peer=EMPTY,
            peer_samples=samples[EMPTY],
            goal=Goal("ratio", "≥", 0.75),
        ),
        figure(
            f"{TITLE}, {MANY} keys a request",
            "values/s",
            values,
            peer="Tally, one key a request",
            peer_samples=samples[TALLY],
            goal=Goal("ratio", "≥", 20),
        ),
        figure(
            f"{TITLE}, p99 at half of the maximum rate",
            "ms",
            [half["p99_ms"]],
            peer=f"{EMPTY}, at the same rate",
            peer_samples=[its_half["p99_ms"]],
            goal=Goal("value", "≤", 5),
        ),
    ]
    part.details[SHARES] = shares.medians()
    return part


def _multi_get(context: Context, keys: list[str]) -> bytes:
    path = "/v1/counters?" + "&".join(f"key={key}" for key in keys)
    return wire.http("GET", path, headers=context.authorization)


def _side(
    context: Context, addresses: list[Address], requests: list[bytes], shares: Shares | None = None
) -> Callable[[], float]:
    """Measures requests a second."""

    def measure() -> float:
        with cpu_used(context.subject) as used:
            result = context.load(addresses, requests, connections=CONNECTIONS, seconds=SECONDS)
        if shares is not None:
            shares.add(used, result, result.seconds)
        return result.rate

    return measure


def _curve(
    context: Context, side: str, addresses: list[Address], requests: list[bytes], most: float
) -> list[dict[str, float]]:
    """Latency at shares of Tally's maximum rate, requests sent when they are due."""
    points = []
    for share in RATES:
        context.tell(f"latency of {side} at {share:.0%} of {most:,.0f} reads/s")
        result = context.load(addresses, requests, connections=CONNECTIONS, seconds=CURVE_SECONDS, rate=share * most)
        quantiles = {f"p{100 * q:g}_ms": 1000 * result.quantile(q) for q in (0.5, 0.9, 0.99)}
        points.append({"share": share, "rate": result.rate, **quantiles})
    return points


def _at(curve: list[dict[str, float]], share: float) -> dict[str, float]:
    return next(point for point in curve if point["share"] == share)
