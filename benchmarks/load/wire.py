"""What the generator is told and what it tells; how the bytes of a request are made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import msgspec


class Load(msgspec.Struct, array_like=True, kw_only=True):
    """Requests to send, over and over in their order, to `addresses` (host, port), `connections` spread over them.

    `rate` is in requests a second; 0 sends the next as soon as an answer is there. With a rate, a latency counts from
    the moment when the request was due, whether or not a connection was free then. `lines`: 0 for HTTP, where `status`
    is the only good answer; else an answer is so many lines of the Redis protocol. `refusals`: statuses that are no
    failures; with any, it is told when each answer came, and what an accepted write lost. `most`: so many requests and no
    more, 0 for any number.
    """

    addresses: list[tuple[str, int]]
    requests: list[bytes]
    connections: int
    seconds: float
    rate: float = 0
    status: int = 200
    lines: int = 0
    refusals: list[int] = []
    most: int = 0


class Lost(msgspec.Struct, array_like=True):
    """A good answer that names keys which were spilled or refused. `at` is in seconds from the start."""

    request: int
    at: float
    body: bytes


class Result(msgspec.Struct, array_like=True, kw_only=True):
    """`answered[i]`: good answers to request i. `seconds`: from the first byte sent to the last answer.

    `started` is on the clock of `time.monotonic`. `latencies`: seconds, float32. `failures`: what else came back, and
    how often. With `Load.refusals`: `at` is when the good answers came, `refused` when the others did, by their status
    (seconds from the start, float32).
    """

    answered: list[int]
    started: float
    seconds: float
    cpu_seconds: float
    latencies: bytes
    failures: dict[str, int]
    at: bytes = b""
    refused: dict[str, bytes] = {}
    lost: list[Lost] = []

    @property
    def count(self) -> int:
        """Good answers."""
        return sum(self.answered)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.count / self.seconds if self.seconds else 0.0

    def quantile(self, share: float, after: int = 0) -> float:
        """Latency in seconds that `share` of all answers `after` the first so many do not exceed; NaN if there are none."""
        latencies = sorted(memoryview(self.latencies).cast("f")[after:])
        return float(latencies[min(len(latencies) - 1, int(share * len(latencies)))]) if latencies else float("nan")


def http(method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """One HTTP/1.1 request."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def increment(path: str, delta: int = 1, headers: Mapping[str, str] | None = None) -> bytes:
    """An increment of one counter: the same body for Tally and its peers."""
    return http(
        "POST", path, json.dumps({"delta": delta}).encode(), {"Content-Type": "application/json", **(headers or {})}
    )


def pipeline(commands: Sequence[Sequence[str]]) -> bytes:
    """Commands of the Redis protocol, sent at once."""
    return "".join(
        f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words) for words in commands
    ).encode()
