"""`cluster autoscale` under a bulk load that rises and falls: processes, what they are counted by, and every count exact.

The thresholds are lower than the defaults, and the waits shorter, so that two cores and a few minutes show both ways.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.chaos.subject import Subject
from benchmarks.context import Context
from benchmarks.document import Goal, Part, figure
from benchmarks.figures.bulk import BODY, Bulk
from benchmarks.load import keys
from benchmarks.scaling import scale
from cluster import lanes, state
from cluster.autoscaling import Usage

TITLE = "Autoscaling"
FORMAT = keys.JSON  # the one that costs API processes most
PHASES = ((0.03, 30.0), (0.4, 40.0), (1.0, 70.0), (0.4, 40.0), (0.03, 90.0))  # share of the maximum, seconds
MOST_SECONDS = 6.0
LATE, EARLY, BUSY, IDLE = 1.2, 0.6, 0.35, 0.15
OPTIONS = (
    *("--worker", "1-2", "--late", f"{LATE}", "--early", f"{EARLY}", "--up", "5", "--down", "15"),
    *("--api", "1-3", "--busy", f"{BUSY}", "--idle", f"{IDLE}"),
)
PERIOD_SECONDS = 1.0
ENOUGH = Goal("value", "≤", 8)  # each process that there may be more, once there and once gone: two of each kind


@dataclass
class Watch:
    """Looks at the cluster until told to stop. `share`: of the maximum that is sent now."""

    subject: Subject
    share: float = 0.0
    samples: list[dict[str, Any]] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        """A sample each second."""
        began, usage = time.monotonic(), Usage()
        while not stop.wait(PERIOD_SECONDS):
            now, ages = self.subject.status(), lanes.ages(self.subject.directory)
            rows = [row for row in now.processes if row["state"] == "running"]
            self.samples.append(
                {
                    "second": time.monotonic() - began,
                    "share": self.share,
                    "age": max(ages, default=0.0) if ages else None,
                    "usage": usage.look(time.monotonic(), state.processor_seconds(now, "api")),
                    "api": sum(row["role"] == "api" for row in rows),
                    "workers": sum(row["role"] == "worker" for row in rows),
                }
            )


@contextlib.contextmanager
def watching(subject: Subject) -> Iterator[Watch]:
    """Samples while the block runs."""
    watch, stop = Watch(subject), threading.Event()
    thread = threading.Thread(target=watch.run, args=(stop,), daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def autoscaling(subject: Subject) -> Iterator[None]:
    """`cluster autoscale` while the block runs; then the processes that were there before."""
    before = {role: subject.count(role) for role in ("api", "worker")}
    for role in before:
        scale(subject, role, 1)
    command = [sys.executable, str(subject.project / "manage.py"), "cluster", "autoscale"]
    command += ["--dir", str(subject.directory.root), *OPTIONS]
    with subprocess.Popen(  # noqa: S603
        command, cwd=subject.project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield
            if process.poll() is not None:
                raise RuntimeError(f"cluster autoscale ended: {process.communicate()[1].strip()}")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()
            for role, count in before.items():
                scale(subject, role, count)


def run(context: Context) -> Part:
    """On the cluster of the run, which gets its processes back. Raises `RuntimeError` if nothing was scaled."""
    part, subject = Part(), context.subject
    bulk = Bulk(context, part, prefix="as")
    context.tell("the maximum")
    most = bulk.measure(FORMAT, MOST_SECONDS)
    with autoscaling(subject), watching(subject) as watch:
        for share, seconds in PHASES:
            context.tell(f"{share:.0%} of {most:,.0f} increments/s")
            watch.share = share
            bulk.measure(FORMAT, seconds, rate=share * most / BODY if share < 1 else 0)
    bulk.expected.compare()
    part.curves["course"] = watch.samples
    part.curves["bounds"] = {"late": LATE, "early": EARLY, "busy": BUSY, "idle": IDLE}
    changes = {role: _changes([one[role] for one in watch.samples]) for role in ("api", "workers")}
    if idle := [role for role, numbers in changes.items() if not went_and_came_back(numbers)]:
        raise RuntimeError(f"the load rose and fell, and this did not: {', '.join(idle)} ({changes})")
    part.details = {"most, increments/s": most, "changes": changes}
    note = ", ".join(f"{role}: {' → '.join(map(str, numbers))}" for role, numbers in changes.items())
    count = sum(len(numbers) - 1 for numbers in changes.values())
    part.figures = [
        figure(f"{TITLE}, changes under a load that rises and falls once", "changes", [count], goal=ENOUGH, note=note)
    ]
    return part


def went_and_came_back(numbers: list[int]) -> bool:
    """Whether there were more processes for a while, and at the end as many as at first."""
    return max(numbers) > numbers[0] == numbers[-1]


def _changes(numbers: list[int]) -> list[int]:
    """Each number that differs from the one before, the first one with them."""
    return [number for before, number in zip([-1, *numbers], numbers, strict=False) if number != before]
