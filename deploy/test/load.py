"""Writes from a few clients, each repeated under its own id until it is acknowledged, and how much each counter must have."""

from __future__ import annotations

import random
import ssl
import threading
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

CLIENTS = 4
KEYS = 200
PAUSE_SECONDS = 0.02  # of a client, between two writes
REPEAT_SECONDS = 0.3  # after a write that was not acknowledged
MOST_WRITES = 200_000  # of a client
LAST_SECONDS = 60.0  # for the last write of each client to be acknowledged


class Load:
    """Clients of one deployment. `expected` has the sum of what was acknowledged, by key."""

    def __init__(self, url: str, key: str, authority: Path) -> None:
        self._client = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Api-Key {key}"},
            verify=ssl.create_default_context(cafile=str(authority)),
            timeout=10,
            trust_env=False,
        )
        self.expected: Counter[str] = Counter()
        self.accepted = self.repeated = 0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,), daemon=True) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self._stop.set()
        self._client.close()

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Stop once the last writes are acknowledged: one of which nobody knows whether it counts would spoil the sum."""
        self._stop.set()
        for thread in self._threads:
            thread.join(LAST_SECONDS)
            if thread.is_alive():
                raise TimeoutError("a write is not acknowledged")

    def get(self, path: str) -> dict[str, Any]:
        """Raises `httpx.HTTPError`, and `ValueError` where the answer is no JSON."""
        answer: dict[str, Any] = self._client.get(path).raise_for_status().json()
        return answer

    def nodes(self, requests: int) -> set[str]:
        """Who answers, as `Tally-Node` says."""
        return {self._client.get("/livez").headers["Tally-Node"] for _ in range(requests)} - {"nginx"}

    def differing(self) -> dict[str, tuple[int, int]]:
        """Counters that have less or more than what was acknowledged: that, and what they have."""
        keys = sorted(self.expected)
        found: dict[str, int] = {}
        for some in (keys[start : start + 100] for start in range(0, len(keys), 100)):
            found |= self._values(some)
        return {key: (wanted, found[key]) for key, wanted in self.expected.items() if found[key] != wanted}

    def _values(self, keys: Iterable[str]) -> dict[str, int]:
        query = "&".join([f"key={key}" for key in keys] + ["consistency=primary"])
        return {one["key"]: int(one["value"]) for one in self.get(f"/v1/counters?{query}")["results"]}

    def _write(self, number: int) -> None:
        choice = random.Random(number)  # noqa: S311
        for _ in range(MOST_WRITES):
            if self._stop.wait(PAUSE_SECONDS):
                return
            key, delta = f"deploy:{choice.randrange(KEYS)}", choice.randrange(1, 100)
            repeats = self._acknowledged(key, delta, str(uuid.uuid4()))
            with self._lock:
                self.expected[key] += delta
                self.accepted += 1
                self.repeated += repeats > 0

    def _acknowledged(self, key: str, delta: int, name: str) -> int:
        """Write until it is acknowledged. Returns how often it was repeated."""
        repeats = 0
        while True:
            try:
                path, header = f"/v1/counters/{key}/increments", {"Idempotency-Key": name}
                if self._client.post(path, json={"delta": delta}, headers=header).status_code in (200, 202):
                    return repeats
            except httpx.HTTPError:
                pass
            repeats += 1
            threading.Event().wait(REPEAT_SECONDS)
