"""The deployment that a sweep measures: where it answers, the key for it, and the shard."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from benchmarks.chaos.subject import Subject
from benchmarks.chaos.wire import Wire

_AT_ONCE = 500  # keys of one question


@dataclass(frozen=True)
class Deployment:
    """`hosts`: addresses (host:port) that take the writes, in turn. `key` needs every scope."""

    url: str
    key: str
    hosts: list[str]
    shard: int = 0

    @property
    def path(self) -> str:
        """Of the calls on the shard."""
        return f"/v1/shards/{self.shard}"

    def wire(self) -> Wire:
        """A connection to it."""
        return Wire(self.url, self.key)


def of_cluster(subject: Subject, shard: int = 0) -> Deployment:
    """A local cluster. Writes go straight to the processes: nginx would connect to them anew for each of thousands of
    clients at once."""
    hosts = [f"127.0.0.1:{row['port']}" for row in subject.rows("api")]
    return Deployment(subject.url, subject.key, hosts, shard)


def at(url: str, key: str, shard: int = 0) -> Deployment:
    """One that answers at a URL. Raises `ValueError` for one that is not http://HOST[:PORT]."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
        raise ValueError(f"{url} is not of the form http://HOST:PORT")
    return Deployment(url, key, [f"{parts.hostname}:{parts.port or 80}"], shard)


def names(deployment: Deployment, prefix: str, count: int) -> list[str]:
    """`count` keys that the deployment's shard owns."""
    found: list[str] = []
    candidates = (f"{prefix}:{number}" for number in itertools.count())
    wire = deployment.wire()
    try:
        while len(found) < count:
            found += [one["key"] for one in _asked(wire, candidates) if one["shard"] == deployment.shard]
    finally:
        wire.close()
    return found[:count]


def _asked(wire: Wire, candidates: Iterator[str]) -> list[dict[str, Any]]:
    query = urlencode([("key", name) for name in itertools.islice(candidates, _AT_ONCE)])
    answer = wire.ask("GET", f"/v1/counters?{query}", timeout=60)
    if answer.status != 200:
        raise RuntimeError(f"the keys' shards are not told: {answer.status} {answer.body[:300]!r}")
    results: list[dict[str, Any]] = answer.json["results"]
    return results
