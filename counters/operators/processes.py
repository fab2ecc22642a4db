"""Which processes work, by their heartbeats: the workers of each queue, beat, and when each shard had its last shift.

Workers send heartbeats (`apply.worker`), and so does beat (`counter_project.celery`). Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

WORKS_SECONDS = 5.0  # after its last heartbeat in which a worker counts as running


@dataclass
class Processes:
    """Names of the workers by queue: those that run, and those of them that consume it. `last_shift`: seconds since the
    end of a shard's last shift. `last_tick`: seconds since beat last sent a task, None if it did not in a day."""

    running: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    consuming: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    last_shift: dict[int, float] = field(default_factory=dict)
    last_tick: float | None = None


def of(ages: Mapping[str, float]) -> Processes:
    """What heartbeats say, by their names and ages in seconds. Unknown names are ignored."""
    found = Processes()
    for name, age in ages.items():
        match name.split(" "):
            case ["worker", queue, worker] if age < WORKS_SECONDS:
                found.running[queue].add(worker)
            case ["consumer", queue, worker] if age < WORKS_SECONDS:
                found.consuming[queue].add(worker)
            case ["shift", shard, _] if shard.isdecimal():
                number = int(shard)
                found.last_shift[number] = min(age, found.last_shift.get(number, age))
            case ["beat"]:
                found.last_tick = age
    return found
