"""Increments a second that are accepted over HTTP, applied in PostgreSQL and on a replica, for 30 s."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

from benchmarks import checks
from benchmarks.context import SHARES, WARM_SECONDS, Context, ExpectedCounts, Shares, cpu_used, note
from benchmarks.document import Figure, Goal, Part, figure, median_and_spread
from benchmarks.load import keys, wire
from benchmarks.peers import house, raw_postgres, raw_redis

TITLE = "Bulk ingest to convergence"
COUNTERS, BODY, LARGE_BODY = 100_000, 10_000, 100_000
DRAWN = 640_000  # increments in the bodies of one size, fewer at a smaller scale
CONNECTIONS = 8
SECONDS, PEER_SECONDS, FORMAT_SECONDS = 30.0, 10.0, 6.0
GOALS = {BODY: Goal("ratio", "≥", 1.5), LARGE_BODY: Goal("ratio", "≥", 2.0)}
REDIS, POSTGRES, TOOL = "Redis INCR, pipelines of 100, AOF", "PostgreSQL upsert of whole bodies", "redis-benchmark"
TALLY = {size: f"Tally, Arrow bodies of {size:,}" for size in GOALS}


class Bulk:
    """Tally's side: the same bodies again and again. `operations`: those accepted so far, folded, so one for each key
    of each body."""

    def __init__(self, context: Context, part: Part, *, counters: int = COUNTERS, prefix: str = "b") -> None:
        self._context = context
        self.expected = ExpectedCounts(context, f"{prefix}{context.run}:", part, context.subject)
        self._names = [f"{self.expected.prefix}{n}" for n in range(counters)]
        self._drawn: dict[int, list[list[str]]] = {}
        self._requests: dict[tuple[str, int], list[bytes]] = {}
        self.accepted: dict[str, list[float]] = {}
        self.shares = Shares()
        self.operations = 0

    def drawn(self, size: int) -> list[list[str]]:
        """The keys of each body of a size, drawn once."""
        if size not in self._drawn:
            bodies = max(1, round(DRAWN * min(1.0, self._context.scale)) // size)
            self._drawn[size] = [keys.zipf(self._names, size, self._context.rng) for _ in range(bodies)]
        return self._drawn[size]

    def requests(self, format: str, size: int) -> list[bytes]:
        """The bodies in a format, made once."""
        if (format, size) not in self._requests:
            headers = {**self._context.authorization, "Content-Type": keys.media_type(format)}
            bodies = [keys.body(format, some) for some in self.drawn(size)]
            self._requests[format, size] = [wire.http("POST", "/v1/increments", body, headers) for body in bodies]
        return self._requests[format, size]

    def measure(self, format: str, seconds: float, rate: float = 0, size: int = BODY) -> float:
        """Increments a second from the first byte sent until the replicas have them all. `rate`: bodies a second, 0 for
        all it takes."""
        context, drawn, requests = self._context, self.drawn(size), self.requests(format, size)
        with cpu_used(context.subject) as used:
            result = context.load(
                context.addresses(), requests, connections=CONNECTIONS, seconds=seconds, rate=rate, status=202
            )
            self.expected.add(keys.counted(result.answered, drawn))
            self.operations += sum(times * len(set(some)) for times, some in zip(result.answered, drawn, strict=True))
            whole = self.expected.settled() - result.started
        self.accepted.setdefault(_name(format, size), []).append(result.rate * size)
        self.shares.add(used, result, whole)
        return result.count * size / whole


def run(context: Context) -> Part:
    """Each format once, then Tally with Arrow bodies of two sizes beside its peers."""
    part = Part()
    bulk = Bulk(context, part)
    bulk.measure(keys.JSON, WARM_SECONDS)
    formats, costs = _formats(context, bulk)
    bulk.accepted.clear()
    shares = {name: Shares() for name in TALLY.values()}
    with contextlib.ExitStack() as stack:
        peers = _Peers(context, part, bulk.drawn(BODY), stack)

        def tally(size: int) -> float:
            bulk.shares = shares[TALLY[size]]
            return bulk.measure(keys.ARROW, SECONDS, size=size)

        sides: dict[str, Callable[[], float]] = {name: partial(tally, size) for size, name in TALLY.items()}
        samples = context.interleaved(sides | {REDIS: peers.redis, POSTGRES: peers.postgres} | peers.tool())
        context.tell("every count")
        bulk.expected.compare()
        peers.compare()
    part.figures = _figures(samples, formats)
    part.details = {
        "processor seconds for a million increments, by format and role": costs,
        "accepted": bulk.accepted,
        SHARES: {name: some.medians() for name, some in shares.items()},
    }
    return part


def _formats(context: Context, bulk: Bulk) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Increments a second in each format, each once, and what they cost."""
    found, costs = {}, {}
    for format, size in (*((format, BODY) for format in keys.ENCODERS), (keys.ARROW, LARGE_BODY)):
        name = _name(format, size)
        context.tell(name)
        bulk.shares = Shares()
        found[name] = bulk.measure(format, FORMAT_SECONDS, size=size)
        costs[name] = {role: share / found[name] * 1e6 for role, share in bulk.shares.samples[-1].items()}
    return found, costs


def _name(format: str, size: int) -> str:
    return f"{format}, bodies of {size:,}"


class _Peers:
    """Redis and PostgreSQL, as they are, with the same keys."""

    def __init__(self, context: Context, part: Part, drawn: list[list[str]], stack: contextlib.ExitStack) -> None:
        self._context, self._part, self._drawn = context, part, drawn
        self._url = stack.enter_context(house.redis(context, *house.AOF))
        self._database = stack.enter_context(house.database(context.subject, "bench_postgres", []))
        self._pipelines = raw_redis.pipelines([key for some in drawn for key in some])
        self._counted = {REDIS: keys.counted([], []), POSTGRES: keys.counted([], [])}
        self._last_rate = 1e6

    def redis(self) -> float:
        self._last_rate, counted = raw_redis.measure(self._context, self._url, self._pipelines, PEER_SECONDS)
        self._counted[REDIS].update(counted)
        return self._last_rate

    def tool(self) -> dict[str, Callable[[], float]]:
        """A third way to load Redis, where it is installed; its keys are its own, uniform, and not compared."""
        program = raw_redis.tool()
        if program is None:
            return {}
        seconds = PEER_SECONDS * self._context.scale
        return {TOOL: lambda: raw_redis.redis_benchmark(program, self._url, COUNTERS, round(self._last_rate * seconds))}

    def postgres(self) -> float:
        rate, done = raw_postgres.measure(self._database.dsn, self._drawn, PEER_SECONDS * self._context.scale)
        self._counted[POSTGRES].update(keys.counted(done, self._drawn))
        return rate

    def compare(self) -> None:
        """Theirs must be exact, too, as nothing was killed."""
        expected = self._counted[REDIS]
        note(self._part, REDIS, checks.unequal(house.redis_counts(self._url, list(expected)), expected), expected)
        expected = self._counted[POSTGRES]
        note(self._part, POSTGRES, checks.unequal(self._database.counts(), expected), expected)


def _figures(samples: dict[str, list[float]], formats: dict[str, float]) -> list[Figure]:
    """Against the better of the two ways of loading Redis; PostgreSQL is no rival but the limit, and has no goal."""
    redis = max(
        (name for name in (REDIS, TOOL) if name in samples), key=lambda name: median_and_spread(samples[name])[0]
    )
    unit, note_ = "increments/s", f"Zipf over {COUNTERS:,} counters"
    rows: list[tuple[str, list[float], str, Goal | None]] = [
        (f"{TITLE}, Arrow bodies of {BODY:,}, beside Redis", samples[TALLY[BODY]], redis, GOALS[BODY]),
        (
            f"{TITLE}, Arrow bodies of {LARGE_BODY:,}, beside Redis",
            samples[TALLY[LARGE_BODY]],
            redis,
            GOALS[LARGE_BODY],
        ),
        (f"{TITLE}, Arrow bodies of {BODY:,}, beside PostgreSQL", samples[TALLY[BODY]], POSTGRES, None),
        *((f"Bulk as {name}, once for {FORMAT_SECONDS:g} s", [rate], redis, None) for name, rate in formats.items()),
    ]
    return [
        figure(name, unit, mine, peer=peer, peer_samples=samples[peer], goal=goal, note=note_)
        for name, mine, peer, goal in rows
    ]
