"""The sweep over quorums, and what it found."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import document
from benchmarks.quorum import burst, deployment, steer
from benchmarks.quorum.deployment import Deployment

KEYS = (10, 10_000)
WAIT_SECONDS = 30
DIGEST_SECONDS = 30
MOST_NAMED = 100  # keys that differ
API = 4  # processes
ROOM = 512  # threads of each, which can hold a client that waits
ENVIRONMENT = {name: str(ROOM) for name in ("TALLY_API_THREADS", "TALLY_MAX_WAITING", "TALLY_MAX_WRITING")}

Tell = Callable[[str], None]


@dataclass
class Latency:
    """From a client's request to the answer that says committed: milliseconds; and writes committed in a second.

    `load` is "burst", all clients at the same moment, or "steady", the same clients evenly over some seconds.
    """

    keys: int
    load: str
    writes: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    throughput: float
    quantiles_ms: list[float] = field(repr=False)  # 101, from the least to the largest: enough to draw them again


@dataclass
class Step:
    """One quorum. `mismatched_keys`: on all followers together, beside the leader, and on the leader beside what was
    acknowledged. `mismatched` names them, by who differs; a follower names a hundred at most."""

    quorum: int
    in_force_seconds: float
    delay_ms: int | None  # of the follower that decides: the quorum-th fastest
    latencies: list[Latency]
    mismatched_keys: int
    followers_compared: int
    troubles: list[str] = field(default_factory=list)
    mismatched: dict[str, list[str]] = field(default_factory=dict)

    def latency(self, load: str, keys: int) -> Latency:
        """What was measured under this load over so many keys."""
        return next(one for one in self.latencies if (one.load, one.keys) == (load, keys))


@dataclass
class Found:
    """The report."""

    delays_ms: list[int]
    steps: list[Step]
    writes: int
    rounds: int
    spread_seconds: float
    minutes: float
    machine: dict[str, Any] = field(default_factory=document.machine)
    commit: str = field(default_factory=document.commit)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def exact(self) -> bool:
        """Whether every follower was compared, and no key differs anywhere."""
        return all(
            not step.mismatched_keys and not step.troubles and step.followers_compared == len(self.delays_ms)
            for step in self.steps
        )


class Sweep:
    """Writes through the API of one deployment to one of its shards, and the counts of what was acknowledged.

    `delays`: the range of the followers' delays in ms; None leaves them as they are.
    """

    def __init__(  # noqa: PLR0913
        self,
        target: Deployment,
        *,
        writes: int,
        rounds: int,
        spread: float,
        seed: int,
        delays: tuple[int, int] | None,
        tell: Tell,
    ) -> None:
        self.deployment, self.writes, self.rounds, self.spread, self.tell = target, writes, rounds, spread, tell
        self.rng = random.Random(seed)  # noqa: S311 - the same delays and load in each run
        self._set_delays = delays is not None
        found = steer.delays(target)
        self.followers = list(found)
        self.delays = sorted(found.values() if delays is None else (self.rng.randint(*delays) for _ in found))
        self.rng.shuffle(self.followers)
        self.expected: Counter[str] = Counter()
        self.run = f"quorum:{time.time_ns():x}"
        self._names: dict[int, list[str]] = {}

    def measure(self, quorums: Sequence[int]) -> Found:
        """All steps. Raises `OSError`, `TimeoutError`, `NoAnswer`, `RuntimeError`."""
        began = time.monotonic()
        if self._set_delays:
            self.tell("each follower gets its delay")
            steer.set_delays(self.deployment, dict(zip(self.followers, self.delays, strict=True)))
        self._names = {keys: deployment.names(self.deployment, f"{self.run}:{keys}", keys) for keys in KEYS}
        self._warm()
        steps = [self._step(quorum) for quorum in quorums]
        return Found(
            self.delays, steps, self.writes, self.rounds, self.spread, round((time.monotonic() - began) / 60, 2)
        )

    def _warm(self) -> None:
        """Threads, connections and pages are there before anything is measured."""
        self.tell("warm-up")
        for number in (API, 10 * API, 100 * API, self.writes, self.writes):
            self._write([f"{self.run}:warm:{n}" for n in range(min(number, self.writes))])

    def _step(self, quorum: int) -> Step:
        self.tell(f"quorum {quorum}: waiting for Patroni")
        seconds = steer.set_quorum(self.deployment, quorum)
        latencies = [self._latency(quorum, keys, load) for load in ("steady", "burst") for keys in KEYS]
        self.tell(f"quorum {quorum}: comparing {len(self.followers)} followers with the leader")
        compared, mismatched, differing, troubles = self._parity()
        wrong = self._miscounted()
        delay = self.delays[quorum - 1] if quorum else None
        if delay and (least := min(one.quantiles_ms[0] for one in latencies)) < delay:
            troubles.append(
                f"a write was committed after {least:g} ms, before the follower that decides can have applied it ({delay} ms)"
            )
        named = {**differing, "leader, beside what was acknowledged": wrong[:MOST_NAMED]}
        return Step(
            quorum,
            round(seconds, 2),
            delay,
            latencies,
            mismatched + len(wrong),
            compared,
            troubles,
            {who: keys for who, keys in named.items() if keys},
        )

    def _latency(self, quorum: int, keys: int, load: str) -> Latency:
        names = self._names[keys]
        took, seconds = list[float](), 0.0
        rounds, spread = (self.rounds, 0.0) if load == "burst" else (1, self.spread)
        for number in range(rounds):
            self.tell(f"quorum {quorum}: {self.writes:,} clients ({load}) on {keys:,} keys, {number + 1} of {rounds}")
            wanted = (
                self.rng.sample(names, self.writes)
                if keys >= self.writes
                else [names[n % keys] for n in range(self.writes)]
            )
            answers = self._write(wanted, spread)
            took += [1000 * answer.seconds for answer in answers]
            seconds += max(answer.at for answer in answers)
        took.sort()
        p50, p95, p99 = (round(took[int(share * (len(took) - 1))], 1) for share in (0.5, 0.95, 0.99))
        mean, rate = round(sum(took) / len(took), 1), round(len(took) / seconds, 1)
        quantiles = [round(took[share * (len(took) - 1) // 100], 1) for share in range(101)]
        return Latency(keys, load, len(took), mean, p50, p95, p99, rate, quantiles)

    def _write(self, keys: Sequence[str], spread: float = 0.0) -> list[burst.Answer]:
        """Add one to each of these. Raises `RuntimeError` for an answer other than 200."""
        query, body = f"increments?wait={WAIT_SECONDS}", b'{"delta":1}'
        hosts, token = self.deployment.hosts, self.deployment.key
        requests = [burst.request(hosts[0], f"/v1/counters/{key}/{query}", token, body) for key in keys]
        answers = burst.send(hosts, requests, spread)
        if bad := next((answer for answer in answers if answer.status != 200), None):
            many = (
                " (too many wait at once: fewer --writes, or a larger TALLY_MAX_WAITING)" if bad.status == 202 else ""
            )
            raise RuntimeError(
                f"a write was answered with {bad.status}{many}: {bad.body.decode(errors='replace')[:300]}"
            )
        self.expected.update(keys)
        return answers

    def _parity(self) -> tuple[int, int, dict[str, list[str]], list[str]]:
        """Followers compared with the leader, how many keys differ and which, by follower, and why a follower could not
        be compared."""
        path = f"{self.deployment.path}/digest?wait={DIGEST_SECONDS}"
        replicas = steer.ask(self.deployment, "GET", path)["replicas"]
        compared = [one for one in replicas if one["equal"] is not None]
        troubles = [f"{one['node']}: {one['detail']}" for one in replicas if one["detail"]]
        named = {one["node"]: [difference["key"] for difference in one["differences"]] for one in compared}
        return len(compared), sum(one["differing_keys"] or not one["equal"] for one in compared), named, troubles

    def _miscounted(self) -> list[str]:
        """Keys whose value on the leader is not what was acknowledged."""
        wrong, keys = list[str](), list(self.expected)
        for start in range(0, len(keys), 500):
            query = "&".join(f"key={key}" for key in keys[start : start + 500])
            found = steer.ask(self.deployment, "GET", f"/v1/counters?consistency=primary&{query}")["results"]
            wrong += [one["key"] for one in found if one["value"] != self.expected[one["key"]]]
        return wrong


def save(found: Found, path: Path) -> None:
    """The document: per quorum, load and number of keys mean, p50, p95, p99, throughput; per quorum mismatched keys."""
    what = f"{found.writes:,} clients, each answered when so many of {len(found.delays_ms)} followers have applied its write"
    kept: dict[str, Any] = {"what": what, "exact": found.exact, **asdict(found)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def markdown(found: Found) -> str:
    """The table, and where its figures are from."""
    head = ["quorum", "delay that decides, ms", *(f"{keys:,} keys: mean, p50, p95, p99, ms" for keys in KEYS)]
    head += [*(f"{keys:,} keys at once: mean, ms; writes/s" for keys in KEYS), "mismatched keys"]
    rows = [head, ["---:"] * len(head)]
    for step in found.steps:
        steady, burst = ([step.latency(load, keys) for keys in KEYS] for load in ("steady", "burst"))
        calm = [
            ", ".join(f"{part:,.0f}" for part in (one.mean_ms, one.p50_ms, one.p95_ms, one.p99_ms)) for one in steady
        ]
        rush = [f"{one.mean_ms:,.0f}; {one.throughput:,.0f}/s" for one in burst]
        rows.append([str(step.quorum), str(step.delay_ms or "-"), *calm, *rush, str(step.mismatched_keys)])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return f"{table}\n{document.where(found.machine)}; commit {found.commit}, {found.at}.\n"
