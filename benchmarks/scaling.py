"""Another number of processes of a role, while the cluster runs."""

from __future__ import annotations

from benchmarks.chaos.subject import Subject
from runtime import polling

SECONDS = 60.0


def scale(subject: Subject, role: str, count: int) -> None:
    """Have so many processes of a role, workers for each shard, all at work. Raises `RuntimeError`, `TimeoutError`."""
    subject.scale(role, count)
    wanted = count * (len(subject.shards) if role == "worker" else 1)
    if not polling.until(lambda: len(subject.rows(role)) == wanted and not subject.is_whole(), SECONDS, pause=0.2):
        raise TimeoutError(f"no {wanted} processes of {role} after {SECONDS:g} s: {subject.is_whole()}")
