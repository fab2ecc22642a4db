"""Increments a second that are accepted over HTTP, applied in PostgreSQL and on a replica, for 30 s."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from benchmarks import checks
from benchmarks.context import SHARES, WARM_SECONDS, Context, ExpectedCounts, Shares, cpu_used, note
from benchmarks.document import Figure, Goal, Part, figure, median_and_spread
from benchmarks.load import keys, wire
from benchmarks.peers import house, raw_postgres, raw_redis

TITLE = "Bulk ingest to convergence"
COUNTERS, BODY, BODIES = 100_000, 10_000, 64
CONNECTIONS = 8
SECONDS, PEER_SECONDS, FORMAT_SECONDS = 30.0, 10.0, 6.0
GOAL = Goal("ratio", "≥", 1.5)
TALLY, REDIS, POSTGRES, TOOL = "Tally", "Redis INCR, pipelines of 100, AOF", "PostgreSQL upsert of whole bodies", "redis-benchmark"


class Bulk:
    """Tally's side: the same bodies again and again. `operations`: those accepted so far, folded, so one for each key of each body."""

    def __init__(self, context: Context, part: Part, *, counters: int = COUNTERS, prefix: str = "b") -> None:
        self._context = context
        self.expected = ExpectedCounts(context, f"{prefix}{context.run}:", part, context.subject)
        names = [f"{self.expected.prefix}{n}" for n in range(counters)]
        self.drawn = [keys.zipf(names, BODY, context.rng) for _ in range(BODIES)]
        self._requests: dict[str, list[bytes]] = {}
        self.accepted: dict[str, list[float]] = {}
        self.shares = Shares()
        self.operations = 0
        self._distinct = [len(set(some)) for some in self.drawn]

    def requests(self, media_type: str) -> list[bytes]:
        """The bodies in a format, made once."""
        if media_type not in self._requests:
            headers = {**self._context.authorization, "Content-Type": media_type}
            bodies = [keys.body(media_type, some) for some in self.drawn]
            self._requests[media_type] = [wire.http("POST", "/v1/increments", body, headers) for body in bodies]
        return self._requests[media_type]

    def measure(self, media_type: str, seconds: float, rate: float = 0) -> float:
        """Increments a second from the first byte sent until the replicas have them all. `rate`: bodies a second, 0 for all it takes."""
        context = self._context
        with cpu_used(context.subject) as used:
            result = context.load(
                context.addresses(), self.requests(media_type), connections=CONNECTIONS, seconds=seconds, rate=rate, status=202
            )
            self.expected.add(keys.counted(result.answered, self.drawn))
            self.operations += sum(times * distinct for times, distinct in zip(result.answered, self._distinct, strict=True))
            whole = self.expected.settled() - result.started
        self.accepted.setdefault(media_type, []).append(result.rate * BODY)
        self.shares.add(used, result, whole)
        return result.count * BODY / whole


def run(context: Context) -> Part:
    """Formats first, then Tally with the fastest beside its peers."""
    part = Part()
    bulk = Bulk(context, part)
    formats = _formats(context, bulk)
    best = max(formats, key=lambda name: formats[name])
    bulk.accepted.clear()
    bulk.shares = Shares()
    with contextlib.ExitStack() as stack:
        peers = _Peers(context, part, bulk.drawn, stack)
        sides = {TALLY: lambda: bulk.measure(best, SECONDS), REDIS: peers.redis, POSTGRES: peers.postgres}
        samples = context.interleaved(sides | peers.tool())
        context.tell("every count")
        bulk.expected.compare()
        peers.compare()
    part.figures = _figures(samples, best)
    part.details = {
        "formats": formats,
        "fastest": best,
        "accepted": bulk.accepted[best],
        SHARES: bulk.shares.medians(),
    }
    return part


def _formats(context: Context, bulk: Bulk) -> dict[str, float]:
    """Increments a second in each format, each once; the first is warm-up for all."""
    found = {}
    bulk.measure(keys.JSON, WARM_SECONDS)
    for media_type in keys.ENCODERS:
        context.tell(f"format {media_type}")
        found[media_type] = bulk.measure(media_type, FORMAT_SECONDS)
    return found


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


def _figures(samples: dict[str, list[float]], best: str) -> list[Figure]:
    """Against the better of the two ways of loading Redis; PostgreSQL is no rival but the limit, and has no goal."""
    redis = max((name for name in (REDIS, TOOL) if name in samples), key=lambda name: median_and_spread(samples[name])[0])
    unit = "increments/s"
    note_ = f"bodies of {BODY:,} as {best}, Zipf over {COUNTERS:,} counters"
    peers = ((redis, GOAL), (POSTGRES, None))
    return [
        figure(f"{TITLE}, beside {_short(name)}", unit, samples[TALLY], peer=name, peer_samples=samples[name], goal=goal, note=note_)
        for name, goal in peers
    ]


def _short(name: str) -> str:
    return "Redis" if name in (REDIS, TOOL) else "PostgreSQL"
