"""Scale workers up and down under load: those that end release their lanes, those that start take some."""

from __future__ import annotations

import time

from benchmarks.chaos.fault import Fault, NotPossible, Scene

MORE = 2  # workers of each shard
SCALED_SECONDS = 3.0


def scale_workers(scene: Scene) -> str:
    """Every shard gets more workers, and some seconds later it has as many as before."""
    subject = scene.subject
    counts = {subject.count("worker", shard) for shard in range(len(subject.shards))}
    if len(counts) > 1:
        raise NotPossible("the shards have different numbers of workers")
    before = counts.pop()
    try:
        subject.scale("worker", before + MORE)
        time.sleep(SCALED_SECONDS)
    finally:
        subject.scale("worker", before)
    return f"{before} to {before + MORE} workers a shard, and back"


def all_scalings() -> list[Fault]:
    """Up and down."""
    return [Fault("scale workers up and down", scale_workers)]
