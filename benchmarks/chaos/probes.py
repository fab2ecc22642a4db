"""How long nothing was read, written or counted: each probe repeats one operation and records every success.

Each shard has its own reader and waiter, so that one shard's outage is not hidden by another. The journal, which all
shards share, accepts writes, so one pulse is enough. The readers also check I5: versions read from the cache never go
back.
"""

from __future__ import annotations

import random
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from benchmarks.chaos.client import Client
from benchmarks.chaos.wire import NoAnswer, Wire

READ_TIMEOUT_SECONDS = 5.0


@dataclass(slots=True)
class Successes:
    """Times (monotonic, seconds) of successes."""

    times: list[float] = field(default_factory=list)

    @property
    def last(self) -> float:
        """Of the last success; 0 if there was none."""
        return self.times[-1] if self.times else 0.0

    def note(self) -> None:
        self.times.append(time.monotonic())

    def longest_gap(self, start: float, end: float) -> float:
        """Longest time between two successes, of those that touch [start, end]; seconds."""
        first = max(0, bisect_right(self.times, start) - 1)
        last = min(len(self.times), bisect_left(self.times, end) + 1)
        touched = self.times[first:last]
        if len(touched) < 2:
            return end - start
        return max(after - before for before, after in pairwise(touched))


@dataclass
class Epoch:
    """`number` changes when the cache is lost: versions may then be older than before, because the replica that fills the
    cache may lag."""

    number: int = 0


class Pulse:
    """Single increments of one key, one after the other."""

    pause = 0.05

    def __init__(self, client: Client, key: str) -> None:
        self.client, self.key, self.successes = client, key, Successes()

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            before = self.client.accepted
            self.client.increment(self.key, 1, kind="pulse")
            if self.client.accepted > before:
                self.successes.note()
            time.sleep(self.pause)


class Waiter:
    """Increments of one shard whose result is waited for: when one comes back, the shard counts. `pause` is in
    seconds."""

    def __init__(self, client: Client, key: str, pause: float = 0.1) -> None:
        self.client, self.key, self.pause, self.successes = client, key, pause, Successes()

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            if self.client.waited(self.key, 1):
                self.successes.note()
            time.sleep(self.pause)


class Reader:
    """Eventual reads of keys of one shard."""

    pause = 0.04

    def __init__(self, wire: Wire, keys: list[str], epoch: Epoch, rng: random.Random) -> None:
        self.wire, self.keys, self.epoch, self.rng = wire, keys, epoch, rng
        self.successes = Successes()
        self.complaints: list[str] = []
        self.sources: dict[str, int] = {}
        self.went_back_with_the_cache = 0
        self._seen: dict[str, tuple[int, int]] = {}  # key: version, epoch

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._read(self.rng.choice(self.keys))
            time.sleep(self.pause)

    def _read(self, key: str) -> None:
        epoch = self.epoch.number
        try:
            answer = self.wire.ask("GET", f"/v1/counters/{key}", timeout=READ_TIMEOUT_SECONDS)
        except NoAnswer:
            return
        if answer.status == 503:
            return
        if answer.status != 200:
            self.complaints.append(f"reading {key} got {answer.status}: {answer.body[:300]!r}")
            return
        self.successes.note()
        told = answer.json
        self.sources[told["source"]] = self.sources.get(told["source"], 0) + 1
        if told["source"] == "cache" and epoch == self.epoch.number:
            self._check_version(key, told["version"], epoch)

    def _check_version(self, key: str, version: int, epoch: int) -> None:
        seen, seen_in = self._seen.get(key, (0, epoch))
        if version < seen and seen_in != epoch:
            self.went_back_with_the_cache += 1
        elif version < seen:
            self.complaints.append(f"I5: the cache gave {key} in version {version} after {seen}")
        self._seen[key] = max((version, epoch), (seen, seen_in)) if seen_in == epoch else (version, epoch)


def guarded(run: Callable[[threading.Event], None], stop: threading.Event, failures: list[str]) -> Callable[[], None]:
    """A thread's target that tells of its own failure."""

    def target() -> None:
        try:
            run(stop)
        except Exception as error:
            failures.append(f"a thread of the bench failed: {error!r}")

    return target
