"""Likes: new ones, repeats and one hot item, from the first byte sent until likers and counts are on the replicas."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from typing import NamedTuple

from benchmarks.chaos.subject import Subject
from benchmarks.chaos.wire import Wire
from benchmarks.context import (
    PATIENCE_SECONDS,
    SHARES,
    WARM_SECONDS,
    Address,
    Context,
    ExpectedCounts,
    Shares,
    cpu_used,
    note,
)
from benchmarks.document import Figure, Goal, Part, figure, median_and_spread
from benchmarks.figures.convergence import PAUSE_SECONDS, Probe
from benchmarks.load import likes as events
from benchmarks.load import wire
from benchmarks.load.keys import ARROW
from benchmarks.load.likes import TYPE, Event, Likers
from benchmarks.load.wire import Result
from benchmarks.peers import house, raw_likes
from runtime import polling
from sharding.topology import Topology

TITLE = "Likes"
ITEMS, USERS, BODY = 10_000, 1_000_000, 10_000
BODIES, MIXED_BODIES, HOT_BODIES = 40, 40, 100  # of new likes; of a tenth of new likes; of likes of one item
KNOWN_BODIES, REPEATS = 10, 40  # bodies that are repeated so often
IDLE_SECONDS = 5.0
CONNECTIONS, SINGLES, SINGLE_SECONDS = 8, 64, 6.0
MOST_SECONDS = 300.0  # of a load that ends with its last body
NEW, MIXED, REPEATED, HOT, SINGLE = "all new", "nine of ten repeated", "repeats only", "one item", "one like a request"
READS, PUTS, GETS = "cached count", "one like a request, half of the maximum", "cached count, half of the maximum"
EMPTY = "an empty Django view, at the same rate"
UPSERT, COPY, NAIVE = (
    "upserts into the same tables",
    "COPY into the same tables",
    "Django + DRF, unique constraint and F()",
)
IN_FORCE = "SELECT topology_version, owners, lanes FROM shard_state"
LIKERS = "SELECT item, count(*) FROM user_likes WHERE liked AND item >= %s AND item < %s GROUP BY item"
LIKED = "SELECT item, count(*) FROM liked_items WHERE liked AND item >= %s AND item < %s GROUP BY item"


class Likes:
    """Tally's side. Items of this run have names of their own."""

    def __init__(self, context: Context, part: Part, items: int = ITEMS) -> None:
        self.context, self.part = context, part
        self.prefix = f"/likes/{TYPE}/{context.run}"
        self.likers = Likers([f"{context.run}-{n}" for n in range(items)], USERS, context.rng)
        self.expected = ExpectedCounts(context, self.prefix, part, context.subject)
        self.shares: dict[str, Shares] = {}
        # Of single likes: seconds from the last answer until the replicas had all.
        self.behind: dict[str, list[float]] = {}
        self._headers = {**context.authorization, "Content-Type": ARROW}

    def bodies(self, number: int) -> list[list[Event]]:
        """So many bodies of likes that nobody has sent."""
        return [self.likers.draw(BODY) for _ in range(max(2, round(number * self.context.scale)))]

    def send(
        self, name: str, bodies: Sequence[Sequence[Event]], times: int = 1, rate: float = 0
    ) -> tuple[float, Result]:
        """Send each body so often. Returns events a second, until all likes are on the replicas, and what the generator
        told."""
        requests = [wire.http("POST", "/v1/likes", events.arrow(body), self._headers) for body in bodies]
        with cpu_used(self.context.subject) as used:
            result = self.context.load(
                self.context.addresses(),
                requests,
                connections=CONNECTIONS,
                seconds=MOST_SECONDS / self.context.scale,
                rate=rate,
                status=202,
                most=times * len(requests),
            )
            whole = self.settled() - result.started
        self.shares.setdefault(name, Shares()).add(used, result, whole)
        return result.count * BODY / whole, result

    def settled(self) -> float:
        """When the replicas had all counts, and no journal anything, by `time.monotonic`. Raises `TimeoutError`."""
        self.expected.counts = Counter({f"/likes/{TYPE}/{item}": number for item, number in self.likers.likes.items()})
        self.expected.settled()
        if not polling.until(lambda: not self.context.subject.depths(), PATIENCE_SECONDS, pause=0.02):
            raise TimeoutError("the journals are not empty")
        return time.monotonic()

    def compare(self) -> None:
        """Likers, what users like, and counts, on each copy."""
        self.settled()
        self.expected.compare()
        expected = Counter({f"{TYPE}/{item}": number for item, number in self.likers.likes.items()})
        for query, table in ((LIKERS, "user_likes"), (LIKED, "liked_items")):
            for target in ("primary", "standby"):
                found = _rows(self.context.subject, query, target, f"{TYPE}/{self.context.run}")
                wrong = [
                    f"{item}: {found[item]:,}, acknowledged {n:,}" for item, n in expected.items() if found[item] != n
                ]
                note(self.part, f"{table} ({target})", wrong[:5], expected)


def _rows(subject: Subject, query: str, target: str, prefix: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for shard in range(len(subject.shards)):
        with subject.database(shard, target if subject.replicas(shard) else "primary") as conn:
            for item, number in conn.execute(query, (prefix, f"{prefix}\x7f")):
                found[item] += number
    return found


def run(context: Context) -> Part:
    """Bulk beside PostgreSQL and a naive application, then single likes and counts, then convergence."""
    part = Part()
    likes = Likes(context, part)
    likes.send("warm-up", [likes.likers.draw(BODY)])
    with contextlib.ExitStack() as stack:
        peers = _Peers(context, stack)
        samples = context.interleaved(
            {
                NEW: partial(_new, likes),
                UPSERT: partial(peers.raw, raw_likes.upsert),
                COPY: partial(peers.raw, raw_likes.copy),
                MIXED: partial(_mixed, likes),
                REPEATED: partial(_repeated, likes),
                SINGLE: partial(_single, likes),
                NAIVE: peers.naive,
            }
        )
        latencies = _latencies(likes, median_and_spread(samples[SINGLE])[0], peers.empty)
    convergence = _convergence(likes, median_and_spread(samples[NEW])[0])
    hot = _hot(likes)
    context.tell("every like")
    likes.compare()
    part.figures = _figures(samples, latencies, convergence, hot)
    part.details[SHARES] = {name: some.medians() for name, some in likes.shares.items()}
    part.details["seconds until the replicas had it all"] = likes.behind
    return part


def _new(likes: Likes) -> float:
    return likes.send(NEW, likes.bodies(BODIES))[0]


def _mixed(likes: Likes) -> float:
    """Each body has a tenth of new likes; the rest were sent before."""
    before = likes.bodies(4)
    likes.send("warm-up", before)
    known = [one for body in before for one in body]
    bodies = []
    for _ in range(max(2, round(MIXED_BODIES * likes.context.scale))):
        new = likes.likers.draw(BODY // 10)
        bodies.append([*new, *likes.context.rng.choices(known, k=BODY - len(new))])
        known += new
    return likes.send(MIXED, bodies)[0]


def _repeated(likes: Likes) -> float:
    """Known events again and again, in bodies that nobody has sent like this before."""
    bodies = likes.bodies(KNOWN_BODIES)
    likes.send("warm-up", bodies)
    known = [one for body in bodies for one in body]
    likes.context.rng.shuffle(known)
    return likes.send(REPEATED, [known[n : n + BODY] for n in range(0, len(known), BODY)], times=REPEATS)[0]


def _single(likes: Likes) -> float:
    return _put(likes, SINGLE).rate


def _put(likes: Likes, name: str, rate: float = 0) -> Result:
    """A request for each like; likes that were drawn and not sent are taken back."""
    context = likes.context
    seconds = SINGLE_SECONDS * context.scale
    drawn = likes.likers.draw(round((rate or 12_000) * seconds * 1.5))
    requests = [
        wire.http("PUT", f"/v1/likes/{TYPE}/{one.item}/users/{one.user}", headers=context.authorization)
        for one in drawn
    ]
    with cpu_used(context.subject) as used:
        result = context.load(
            context.addresses(),
            requests,
            connections=SINGLES,
            seconds=SINGLE_SECONDS,
            rate=rate,
            status=202,
            most=len(requests),
        )
        answered = result.started + result.seconds
    likes.likers.take_back([one for one, times in zip(drawn, result.answered, strict=True) if not times])
    likes.behind.setdefault(name, []).append(max(0.0, likes.settled() - answered))
    likes.shares.setdefault(name, Shares()).add(used, result, result.seconds)
    return result


def _latencies(likes: Likes, most: float, empty: Sequence[Address]) -> dict[str, list[float]]:
    """p99 in ms of single likes, and of cached counts, each at half of its maximum, in turns after a warm-up; beside cached
    counts an empty view at the same rate. And reads a second of cached counts."""
    context = likes.context
    items = likes.likers.items[:1000]
    reads = [wire.http("GET", f"/v1/likes/{TYPE}/{item}", headers=context.authorization) for item in items]
    load = partial(context.load, connections=SINGLES, seconds=SINGLE_SECONDS)
    mine = partial(load, context.addresses(), reads)
    context.tell("warm-up")
    mine()
    whole = context.interleaved({READS: lambda: mine().rate})[READS]
    rate = median_and_spread(whole)[0] / 2
    sides: dict[str, Callable[[], float]] = {
        PUTS: partial(_p99, context, partial(_put, likes, PUTS), most / 2),
        GETS: partial(_p99, context, mine, rate),
        EMPTY: partial(
            _p99, context, partial(load, empty, [wire.http("GET", f"/counters/{item}") for item in items]), rate
        ),
    }
    context.tell("warm-up")
    for side in sides.values():
        side()
    return {READS: whole} | context.interleaved(sides)


def _p99(context: Context, side: Callable[..., Result], rate: float) -> float:
    """In ms, at a rate. The beginning of a run is left out: tasks are sent then, and shifts start."""
    return 1000 * side(rate=rate).quantile(0.99, after=round(rate * WARM_SECONDS * context.scale))


class _Probe(Probe):
    """Likes an item of each shard in turn, each time as another user. What is refused is sent again."""

    refused = 0

    def _increment(self, wire: Wire, key: str) -> float:
        type_, item = key.removeprefix("/likes/").split("/")
        user = f"p{self.expected.counts[key]}"
        while True:
            answer = wire.ask("PUT", f"/v1/likes/{type_}/{item}/users/{user}", timeout=PATIENCE_SECONDS)
            answered = time.monotonic()
            if answer.status == 202:
                self.expected.add({key: 1})
                return answered
            if answer.status not in (429, 503):
                raise RuntimeError(f"answered {answer.status}")
            self.refused += 1
            time.sleep(PAUSE_SECONDS)

    def _key_of(self, wire: Wire, shard: int) -> str:
        names = (f"{self.expected.prefix}{number}" for number in count())
        return next(name for name in names if wire.ask("GET", f"/v1{name}").json["shard"] == shard)

    def p99(self) -> float:
        """In ms."""
        seconds = sorted(self.seconds)
        return 1000 * seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))]


@contextlib.contextmanager
def _probing(likes: Likes, name: str) -> Iterator[_Probe]:
    """A probe beside the block; its likes are counted and compared at the end."""
    context = likes.context
    expected = ExpectedCounts(context, f"/likes/probe/{context.run}{name}", likes.part, context.subject)
    probe, stop = _Probe(context, expected), threading.Event()
    thread = threading.Thread(target=probe.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield probe
    finally:
        stop.set()
        thread.join(PATIENCE_SECONDS)
    if probe.failures or not probe.seconds:
        raise RuntimeError(f"the probe failed: {probe.failures or 'no result'}")
    expected.compare()


def _convergence(likes: Likes, most: float) -> _Probe:
    """From 202 to the count on the replica, at half of the maximum of new likes."""
    likes.context.tell("convergence")
    with _probing(likes, "c") as probe:
        likes.send("convergence", likes.bodies(BODIES), rate=most / 2 / BODY)
    return probe


class _Hot(NamedTuple):
    """Everybody likes one item: likes a second until they are on the replicas, seconds until they were accepted, and the
    probes of other items before and beside."""

    likes: int
    rate: float
    seconds: float
    idle: _Probe
    beside: _Probe


def _hot(likes: Likes) -> _Hot:
    """The item is in no lane of the probes, but in the shard of one of them."""
    context = likes.context
    context.tell(HOT)
    with _probing(likes, "i") as idle:
        time.sleep(IDLE_SECONDS * context.scale)
    with context.subject.database(0) as conn:
        in_force = Topology(*conn.execute(IN_FORCE).fetchall()[0])
    with _probing(likes, "h") as beside:
        time.sleep(1)  # until it has its items
        lanes = {in_force.lane_of(key) for key in beside.expected.counts}
        names = (f"{context.run}-hot{number}" for number in count())
        keys = ((name, in_force.lane_of(f"/likes/{TYPE}/{name}")) for name in names)
        name = next(name for name, lane in keys if lane.shard == 0 and lane not in lanes)
        hot = Likers([name], USERS, context.rng)
        bodies = [hot.draw(BODY) for _ in range(max(2, round(HOT_BODIES * context.scale)))]
        likes.likers.add(hot)
        rate, result = likes.send(HOT, bodies)
    return _Hot(len(bodies) * BODY, rate, result.seconds, idle, beside)


class _Peers:
    """PostgreSQL as it is, and an application without Tally, each with a database of its own on the primary of shard 0; and
    where an empty view is."""

    def __init__(self, context: Context, stack: contextlib.ExitStack) -> None:
        self._context, self._stack = context, stack
        self._likers = Likers([f"n{n}" for n in range(ITEMS)], USERS, context.rng)
        self._raw = stack.enter_context(house.database(context.subject, "bench_raw_likes", [], tables=raw_likes.TABLES))
        naive = stack.enter_context(
            house.database(context.subject, "bench_naive_likes", self._likers.items, tables=raw_likes.NAIVE)
        )
        self._addresses = stack.enter_context(
            house.server(context, "benchmarks.peers.naive_likes:application", house.GRANIAN, naive.environment)
        )
        self.empty = stack.enter_context(
            house.server(context, "benchmarks.peers.empty_view:application", house.UVICORN)
        )

    def raw(self, write: raw_likes.Write) -> float:
        """Likes a second into the tables; rows of earlier turns stay there, as Tally's do."""
        bodies = [self._likers.draw(BODY) for _ in range(max(2, round(BODIES * self._context.scale / 2)))]
        return raw_likes.measure(self._raw.dsn, bodies, write)

    def naive(self) -> float:
        """Likes a second, one a request."""
        drawn = self._likers.draw(round(4_000 * SINGLE_SECONDS * self._context.scale))
        requests = [wire.http("PUT", f"/likes/{one.item}/users/{one.user}") for one in drawn]
        result = self._context.load(
            self._addresses, requests, connections=SINGLES, seconds=SINGLE_SECONDS, most=len(requests)
        )
        return result.rate


def _figures(
    samples: dict[str, list[float]], latencies: dict[str, list[float]], convergence: _Probe, hot: _Hot
) -> list[Figure]:
    unit, bodies = "likes/s", f"Arrow bodies of {BODY:,}"
    beside: list[tuple[str, str, str, Goal | None]] = [
        (NEW, f"{bodies}, beside {UPSERT}", UPSERT, Goal("ratio", "≥", 0.5)),
        (NEW, f"{bodies}, beside {COPY}", COPY, None),
        (NEW, f"{bodies}, beside {NAIVE}", NAIVE, Goal("ratio", "≥", 20)),
        (SINGLE, f"beside {NAIVE}", NAIVE, None),
    ]
    found = [
        figure(f"{TITLE}, {name}, {text}", unit, samples[name], peer=peer, peer_samples=samples[peer], goal=goal)
        for name, text, peer, goal in beside
    ]
    million = Goal("value", "≥", 1_000_000)
    found += [
        figure(f"{TITLE}, {MIXED}, {bodies}", "events/s", samples[MIXED]),
        figure(f"{TITLE}, {REPEATED}, {bodies}", "events/s", samples[REPEATED], goal=million),
        figure(f"{TITLE}, {HOT}, {bodies}", unit, [hot.rate], note=f"{hot.likes:,} accepted in {hot.seconds:.1f} s"),
        figure(
            f"{TITLE}, other items beside that, 202 to the count on the replica, p99",
            "ms",
            [hot.beside.p99()],
            goal=Goal("value", "≤", 2000),
            note=f"{hot.idle.p99():.0f} ms before; {hot.beside.refused} refused and sent again",
        ),
        figure(f"{TITLE}, {SINGLE}, p99 at half of the maximum", "ms", latencies[PUTS], goal=Goal("value", "≤", 20)),
        figure(f"{TITLE}, {READS}", "reads/s", latencies[READS]),
        figure(
            f"{TITLE}, {READS}, p99 at half of the maximum",
            "ms",
            latencies[GETS],
            peer=EMPTY,
            peer_samples=latencies[EMPTY],
            goal=Goal("value", "≤", 5),
        ),
        figure(
            f"{TITLE}, 202 to the count on the replica, p99 at half of the maximum",
            "ms",
            [convergence.p99()],
            goal=Goal("value", "≤", 2000),
            note=f"{convergence.refused} refused and sent again",
        ),
    ]
    return found
