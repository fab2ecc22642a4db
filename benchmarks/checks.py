"""Every count, compared: what clients were told against what stands on the primaries and on the replicas."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping

from benchmarks.chaos.subject import Subject

SUM = "SELECT coalesce(sum(value), 0)::bigint FROM counter WHERE key >= %s AND key < %s"
ROWS = "SELECT key, value FROM counter WHERE key >= %s AND key < %s"
SHOWN = 5
PAUSE_SECONDS = 0.05


def bounds(prefix: str) -> tuple[str, str]:
    """The range of the keys that start with a prefix."""
    return prefix, prefix + "\x7f"


def settled(subject: Subject, prefix: str, total: int, patience: float) -> float:
    """Wait until the replicas (the primary, where a shard has none) show the whole sum. Returns that time by
    `time.monotonic`. Raises `TimeoutError` after `patience` seconds."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        copies = [
            stack.enter_context(subject.database(shard, subject.last_copy(shard)))
            for shard in range(len(subject.shards))
        ]
        while True:
            found = sum(conn.execute(SUM, bounds(prefix)).fetchall()[0][0] for conn in copies)
            now = time.monotonic()
            if found == total:
                return now
            if now - began > patience:
                raise TimeoutError(
                    f"{found:,} of {total:,} increments of {prefix} are on the replicas after {patience:g} s"
                )
            time.sleep(
                max(PAUSE_SECONDS, (now - began) / 50)
            )  # looking costs what is measured; a fiftieth is exact enough


def differences(subject: Subject, prefix: str, expected: Mapping[str, int]) -> list[str]:
    """Counters of a prefix that are not what they must be, on the primary or on a replica: a sentence for each, the
    first few."""
    wrong: list[str] = []
    for target in ("primary", "standby"):
        counted: Counter[str] = Counter()
        shards = [shard for shard in range(len(subject.shards)) if target == "primary" or subject.replicas(shard)]
        for shard in shards:
            with subject.database(shard, target) as conn:
                counted.update(dict(conn.execute(ROWS, bounds(prefix)).fetchall()))
        if len(shards) == len(subject.shards):
            wrong += [f"{text} ({target})" for text in unequal(counted, expected)]
    return wrong


def unequal(counted: Mapping[str, int], expected: Mapping[str, int]) -> list[str]:
    """Keys whose counts differ: the first few, each a sentence, and how many more."""
    keys = sorted(key for key in {*counted, *expected} if counted.get(key, 0) != expected.get(key, 0))
    texts = [f"{key}: counted {counted.get(key, 0):,}, acknowledged {expected.get(key, 0):,}" for key in keys[:SHOWN]]
    return [*texts, f"… and {len(keys) - SHOWN:,} more"] if len(keys) > SHOWN else texts
