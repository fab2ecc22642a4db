"""When all is as before: each shard gives the results of waited increments as quickly as if nothing had been."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import NamedTuple

from benchmarks.context import Context, ExpectedCounts
from benchmarks.document import Part
from benchmarks.load import keys

NORMAL_SECONDS = 0.25  # within which a write has its result when nothing is the matter
STREAK_SECONDS = 2.0  # of such results, then all is as before
PATIENCE_SECONDS = 60.0
WAIT_SECONDS = 1.0  # of a probe
SLOW_SECONDS, FAST_SECONDS = (
    1.0,
    0.05,
)  # between two probes: under the flood, which each of them costs something; after it


class Probed(NamedTuple):
    """An increment that was waited for: when it was sent (monotonic), and how long its result took, None if longer than a
    probe waits or if it was refused."""

    at: float
    seconds: float | None


class Probe:
    """Increments a key of one shard and waits for the result, again and again."""

    def __init__(self, context: Context, expected: ExpectedCounts, shard: int) -> None:
        self.results: list[Probed] = []
        self.pause = SLOW_SECONDS
        self._wire, self._expected = context.subject.wire(), expected
        names = (f"{expected.prefix}{shard}-{number}" for number in count())
        self._key = next(name for name in names if self._wire.ask("GET", f"/v1/counters/{name}").json["shard"] == shard)

    def run(self, stop: threading.Event) -> None:
        path, headers = f"/v1/counters/{self._key}/increments?wait={WAIT_SECONDS:g}", {"Content-Type": keys.JSON}
        while not stop.wait(self.pause):
            began = time.monotonic()
            answer = self._wire.ask("POST", path, b'{"delta":1}', headers, timeout=PATIENCE_SECONDS)
            if answer.status in (200, 202):
                self._expected.add({self._key: 1})
            took = time.monotonic() - began if answer.status == 200 else None
            self.results.append(Probed(began, took))
        self._wire.close()


def normal_since(results: Sequence[Probed], end: float) -> float | None:
    """The start of the last streak of quick results after `end`, if it is long enough; monotonic seconds."""
    since = end
    for one in results:
        done = one.at + (one.seconds or WAIT_SECONDS)
        if done > end and (one.seconds is None or one.seconds > NORMAL_SECONDS):
            since = done
    last = results[-1].at if results else end
    return since if last - since >= STREAK_SECONDS else None


@contextlib.contextmanager
def probing(context: Context, part: Part) -> Iterator[list[Probe]]:
    """A probe of each shard, while the block runs."""
    expected = ExpectedCounts(context, f"op{context.run}:", part, context.subject)
    probes = [Probe(context, expected, shard) for shard in range(len(context.subject.shards))]
    stop = threading.Event()
    with ThreadPoolExecutor(len(probes)) as pool:
        running = [pool.submit(probe.run, stop) for probe in probes]
        try:
            yield probes
        finally:
            stop.set()
        for one in running:
            one.result()
    expected.compare()


def back_to_normal(probes: Sequence[Probe], end: float) -> float:
    """Seconds from the end of the flood until every shard is as before; no more than a minute."""
    for probe in probes:
        probe.pause = FAST_SECONDS
    try:
        while time.monotonic() - end < PATIENCE_SECONDS:
            since = [normal_since(probe.results, end) for probe in probes]
            if all(one is not None for one in since):
                return max(one - end for one in since if one is not None)
            time.sleep(FAST_SECONDS)
    finally:
        for probe in probes:
            probe.pause = SLOW_SECONDS
    return PATIENCE_SECONDS
