"""Memory of each process under half of the maximum bulk load: what it has of its own (USS), from its second quarter to
its last."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time

import psutil

from benchmarks.chaos.subject import Subject, family
from benchmarks.context import ROLES, Context
from benchmarks.document import Goal, Part, figure
from benchmarks.figures.bulk import BODY, Bulk
from benchmarks.load import keys

TITLE = "Memory"
MOST_SECONDS, PERIOD_SECONDS = 6.0, 2.0
HOUR = 60.0
POINTS = 200  # of the curve
FLAT = Goal("value", "≤", 1.1)
LEAST_MEBIBYTES = 4.0  # growth by less than that is noise, whatever it is in percent


def own_memory(subject: Subject) -> dict[str, float]:
    """MiB of each process of the cluster, its children with it."""
    found = {}
    for role in ROLES:
        for row in subject.rows(role):
            with contextlib.suppress(psutil.Error):
                found[str(row["name"])] = sum(process.memory_full_info().uss for process in family(row)) / 2**20
    return found


def watch(subject: Subject, stop: threading.Event, samples: list[dict[str, float]]) -> None:
    """A sample now and then until told to stop."""
    began = time.monotonic()
    while not stop.wait(PERIOD_SECONDS):
        samples.append({"minutes": (time.monotonic() - began) / 60, **own_memory(subject)})


def growth(samples: list[dict[str, float]], least: float = LEAST_MEBIBYTES) -> dict[str, float]:
    """By process: median of the last quarter by median of the second; 1 for less than `least` MiB. The first quarter is
    warm-up."""
    quarter = len(samples) // 4
    found = {}
    for name in samples[-1]:
        values = [sample[name] for sample in samples if name in sample]
        if name == "minutes" or len(values) < len(samples) or not quarter:
            continue
        early, late = statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])
        found[name] = late / early if abs(late - early) >= least else 1.0
    return found


def run(context: Context) -> Part:
    """Run for the context's minutes. The goal is for an hour, so a shorter run reports growth without judging it."""
    part = Part()
    bulk = Bulk(context, part, prefix="m")
    context.tell("memory: the maximum")
    most = bulk.measure(keys.MSGPACK, MOST_SECONDS)
    context.tell(f"memory: {context.minutes:g} minutes at half of {most:,.0f} increments/s")
    samples: list[dict[str, float]] = []
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(context.subject, stop, samples), daemon=True)
    watcher.start()
    try:
        bulk.measure(keys.MSGPACK, context.minutes * 60, most / 2 / BODY)
    finally:
        stop.set()
        watcher.join()
    bulk.expected.compare()
    found = growth(samples) if samples else {}
    worst = max(found, key=lambda name: found[name], default="")
    part.curves["memory"] = samples[:: max(1, len(samples) // POINTS)]
    part.details["memory, last quarter by second"] = found
    whole = context.minutes * context.scale >= HOUR
    note = f"{worst or 'no process'}; watched for {context.minutes * context.scale:.2g} minutes"
    name = "Memory of the process that grew most, at half load"
    one = figure(name, "times (last quarter by second)", [found.get(worst, 1.0)], goal=FLAT, note=note)
    one.met = one.met if whole else None
    part.figures.append(one)
    return part
