"""What a figure's `run` is given: the cluster, the load generator, the peers' house, repeats, progress, expected
counts."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import psutil
from rich.console import Console
from rich.progress import Progress, TaskID

from benchmarks import checks
from benchmarks.chaos.subject import Subject, family
from benchmarks.document import ROOT, Part, median_and_spread
from benchmarks.load import wire
from benchmarks.load.wire import Load, Result

Address = tuple[str, int]
WARM_SECONDS = 1.0
# The hottest keys of the bodies have more increments than a counter may have by default. They are counted like all others,
# but nothing is spilled: docs/overload.md.
LIMITS = {"TALLY_KEY_RATE": str(10**9)}
PATIENCE_SECONDS = 300.0  # for what was accepted to be on the replicas
ROLES = (
    "nginx",
    "api",
    "redis-journal",
    "redis-cache",
    "redis-broker",
    "sentinel",
    "worker",
    "spill-worker",
    "beat",
    "flower",
    "disks",
    "postgres",
    "patroni",
    "etcd",
)


def fresh() -> str:
    """A part of keys' names that no run had lately."""
    return f"{time.time_ns() // 1000 % 36**5:x}"


@dataclass
class Context:
    """One run. `scale` multiplies every duration (a smoke test has a small one), `repeats` is how often each side is
    measured."""

    subject: Subject
    directory: Path
    progress: Progress
    bar: TaskID
    repeats: int = 3
    scale: float = 1.0
    direct: bool = False  # the load goes to the API processes, not through nginx; likewise for the peers
    minutes: float = 1.0  # of the watch on memory
    run: str = field(default_factory=fresh)
    rng: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 - the same load in each run

    @property
    def console(self) -> Console:
        return self.progress.console

    @property
    def authorization(self) -> dict[str, str]:
        """The header of Tally's own clients."""
        return {"Authorization": f"Api-Key {self.subject.key}"}

    def addresses(self, subject: Subject | None = None) -> list[Address]:
        """Where Tally's load goes."""
        subject = subject or self.subject
        if self.direct:
            return [("127.0.0.1", row["port"]) for row in subject.rows("api")]
        url = urlsplit(subject.url)
        return [(url.hostname or "127.0.0.1", url.port or 80)]

    def tell(self, text: str) -> None:
        """What is being done now."""
        self.progress.update(self.bar, description=text)

    def load(  # noqa: PLR0913
        self,
        addresses: Sequence[Address],
        requests: Sequence[bytes],
        *,
        connections: int,
        seconds: float,
        rate: float = 0,
        status: int = 200,
        lines: int = 0,
        refusals: Sequence[int] = (),
        most: int = 0,
    ) -> Result:
        """Run the generator. Raises `RuntimeError` if an answer was neither `status` nor one of `refusals`: then no count
        can be told."""
        load = Load(
            addresses=list(addresses),
            requests=list(requests),
            connections=connections,
            seconds=seconds * self.scale,
            rate=rate,
            status=status,
            lines=lines,
            refusals=list(refusals),
            most=most,
        )
        command = [sys.executable, "-m", "benchmarks.load.generator"]
        done = subprocess.run(command, cwd=ROOT, input=msgspec.msgpack.encode(load), capture_output=True, check=False)  # noqa: S603
        if done.returncode:
            raise RuntimeError(f"the load generator failed: {done.stderr.decode()[-500:]}")
        result = msgspec.msgpack.decode(done.stdout, type=Result)
        if result.failures:
            raise RuntimeError(f"answers other than {status}: {result.failures}")
        return result

    def interleaved(self, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Each side in turn, as often as `repeats` says: what each gave, by its name."""
        samples: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(self.repeats):
            for name, side in sides.items():
                self.tell(f"{name}, {turn + 1} of {self.repeats}")
                samples[name].append(side())
        return samples


@dataclass
class ExpectedCounts:
    """The expected counts of one prefix, and what comparing them found."""

    context: Context
    prefix: str
    part: Part
    subject: Subject
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, counted: Mapping[str, int]) -> None:
        """Acknowledged increments."""
        self.counts.update(counted)

    def settled(self, patience: float = PATIENCE_SECONDS) -> float:
        """When the replicas had it all, by `time.monotonic`. Raises `TimeoutError`."""
        return checks.settled(self.subject, self.prefix, self.counts.total(), patience)

    def compare(self, patience: float = PATIENCE_SECONDS) -> None:
        """Compare each count on every copy, and note it in the part."""
        try:
            self.settled(patience)
        except TimeoutError as error:
            self.part.wrong.append(str(error))
        note(
            self.part, f"Tally, {self.prefix}*", checks.differences(self.subject, self.prefix, self.counts), self.counts
        )


def note(part: Part, whose: str, wrong: Sequence[str], expected: Mapping[str, int]) -> None:
    """Enter a comparison of counts."""
    found = f"{len(wrong)} differences" if wrong else "exact"
    part.checks.append(f"{whose}: {len(expected):,} keys, {sum(expected.values()):,} increments acknowledged: {found}")
    part.wrong += [f"{whose}: {text}" for text in wrong]


def cpu_seconds(subject: Subject) -> dict[str, float]:
    """Processor time that each role has used so far."""
    used: dict[str, float] = {}
    for role in ROLES:
        for row in subject.rows(role):
            for process in family(row):
                with contextlib.suppress(psutil.Error):
                    times = process.cpu_times()
                    used[role] = used.get(role, 0.0) + times.user + times.system
    return used


@contextlib.contextmanager
def cpu_used(subject: Subject) -> Iterator[dict[str, float]]:
    """Processor seconds of each role while the block runs; filled in at its end."""
    before, used = cpu_seconds(subject), dict[str, float]()
    yield used
    used |= {role: seconds - before.get(role, 0.0) for role, seconds in cpu_seconds(subject).items()}


@dataclass
class Shares:
    """Shares of a core that each role used, and the load generator beside them, in several measurements."""

    samples: list[dict[str, float]] = field(default_factory=list)

    def add(self, used: Mapping[str, float], result: Result, seconds: float) -> None:
        """One measurement of so many seconds."""
        self.samples.append({role: cpu / seconds for role, cpu in {**used, "load": result.cpu_seconds}.items()})

    def medians(self) -> dict[str, float]:
        """By role."""
        roles = dict.fromkeys(role for sample in self.samples for role in sample)
        return {role: median_and_spread([sample.get(role, 0.0) for sample in self.samples])[0] for role in roles}


SHARES = "shares of a core, by role"  # the name in `Part.details`


def increments(context: Context, keys: Sequence[str], subject: Subject | None = None) -> list[bytes]:
    """Tally's requests that add one to each key."""
    headers = {"Authorization": f"Api-Key {(subject or context.subject).key}"}
    return [wire.increment(f"/v1/counters/{key}/increments", headers=headers) for key in keys]
