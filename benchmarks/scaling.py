"""Another number of processes of a role, while the cluster runs."""

from __future__ import annotations

import time

from benchmarks.chaos.subject import Subject

SECONDS = 60.0


def scale(subject: Subject, role: str, count: int) -> None:
    """Have so many processes of a role, workers for each shard, all at work. Raises `RuntimeError`, `TimeoutError`."""
    subject.scale(role, count)
    wanted = count * (len(subject.shards) if role == "worker" else 1)
    deadline = time.monotonic() + SECONDS
    while len(subject.rows(role)) != wanted or subject.is_whole():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {wanted} processes of {role} after {SECONDS:g} s: {subject.is_whole()}")
        time.sleep(0.2)
