"""Clients that go on writing while something happens to the cluster, and the comparison afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from uuid import uuid4

import httpx

from tests.support.cluster import Cluster, eventually, value_of

PAUSE_SECONDS = 0.06
AFTER_SECONDS = (
    0.5  # for which that pause is kept when enough went on: what the test does then strikes among many writes
)
LONG_PAUSE_SECONDS = 0.2  # afterwards, until the test waits again: it leaves the processor to what recovers


@dataclass
class Load:
    """Clients that add one to a few keys, each write with an idempotency key, repeated until it is answered.

    They pause after each write: a machine that is full shows how slow it is, and nothing else. They pause longer while
    what a test has done takes its time.
    """

    client: httpx.Client
    keys: list[str]
    acknowledged: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0
    refused: int = 0  # answers that were not 202, each repeated
    _quick_until: float = inf
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """One client."""
        turn = 0
        while not self._stop.is_set():
            key = self.keys[turn % len(self.keys)]
            turn += 1
            started = time.monotonic()
            self._write(key, uuid4().hex)
            with self._lock:
                self.slowest = max(self.slowest, time.monotonic() - started)
                self.acknowledged[key] = self.acknowledged.get(key, 0) + 1
            self._stop.wait(PAUSE_SECONDS if time.monotonic() < self._quick_until else LONG_PAUSE_SECONDS)

    def _write(self, key: str, token: str) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                answer = self.client.post(
                    f"/v1/counters/{key}/increments", json={"delta": 1}, headers={"Idempotency-Key": token}
                )
            except httpx.HTTPError:
                self.refused += 1
                time.sleep(0.05)
                continue
            if answer.status_code == 202:
                return
            self.refused += 1
            assert answer.status_code == 503, answer.text
            assert answer.headers["Retry-After"]
            time.sleep(0.05)
        raise AssertionError("no answer within 60 s")

    def goes_on(self, writes: int = 50, seconds: float = 60) -> None:
        """Wait until so many more are acknowledged."""
        enough, self._quick_until = sum(self.acknowledged.values()) + writes, inf
        eventually(lambda: sum(list(self.acknowledged.values())) >= enough, seconds, 0.02)
        self._quick_until = time.monotonic() + AFTER_SECONDS

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def load(cluster: Cluster, key: str, clients: int = 8) -> Iterator[Load]:
    """Writes on both shards while the block runs."""
    with cluster.client() as client:
        running = Load(client, [f"{key}:{n}" for n in range(20)])
        threads = [threading.Thread(target=running.run) for _ in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield running
        finally:
            running.stop()
            for thread in threads:
                thread.join()


def assert_exact(client: httpx.Client, running: Load) -> None:
    """Every key counts exactly what was acknowledged, because every client repeats until it is answered."""
    assert sum(running.acknowledged.values()) > 50
    eventually(lambda: {key: value_of(client, key) for key in running.acknowledged} == running.acknowledged, 60, 0.5)
