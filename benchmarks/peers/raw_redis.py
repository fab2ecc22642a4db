"""Raw Redis: `INCR`, a hundred to a pipeline, 50 connections; and `redis-benchmark` itself where it is on PATH."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from urllib.parse import urlsplit

from benchmarks.context import Context
from benchmarks.load import keys, wire

PIPELINE = 100
CONNECTIONS = 50
PIPELINES = 2_000


def pipelines(drawn: Sequence[str]) -> list[list[str]]:
    """The keys of each pipeline."""
    return [list(drawn[start : start + PIPELINE]) for start in range(0, len(drawn), PIPELINE)][:PIPELINES]


def measure(context: Context, url: str, drawn: Sequence[Sequence[str]], seconds: float) -> tuple[float, Counter[str]]:
    """Increments a second, and what each key must count by it. Raises `RuntimeError` if Redis refused one."""
    requests = [wire.pipeline([("INCR", key) for key in some]) for some in drawn]
    port = urlsplit(url).port or 6379
    result = context.load([("127.0.0.1", port)], requests, connections=CONNECTIONS, seconds=seconds, lines=PIPELINE)
    return result.rate * PIPELINE, keys.counted(result.answered, drawn)


def tool() -> str | None:
    """Where `redis-benchmark` is, if it is installed."""
    return shutil.which("redis-benchmark")


def redis_benchmark(program: str, url: str, counters: int, count: int) -> float:
    """So many by `redis-benchmark`: increments a second."""
    port = str(urlsplit(url).port)
    options = [
        "-p",
        port,
        "-c",
        str(CONNECTIONS),
        "-P",
        str(PIPELINE),
        "-r",
        str(counters),
        "-n",
        str(count),
        "-t",
        "incr",
        "--csv",
    ]
    output = subprocess.run([program, *options], check=True, capture_output=True, text=True).stdout  # noqa: S603
    return next(float(row[1]) for row in csv.reader(output.splitlines()) if row and row[0] == "INCR")
