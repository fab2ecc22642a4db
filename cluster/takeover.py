"""A new supervisor takes over from the one that runs: it plans, ends that one, and adopts its processes.

The old supervisor is stopped (SIGSTOP) first, so that it starts nothing meanwhile, and killed once there is a plan: so
every version can take over from every other, and its processes notice nothing. Where there is no plan it continues.
"""

from __future__ import annotations

import signal
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import psutil

from runtime import polling

from . import ClusterError, prepare, processes, state
from .layout import Asked, Directory
from .plan import Planner

END_SECONDS = 10.0


@dataclass(frozen=True)
class Takeover:
    """The plan of the new supervisor, the rows of the processes to adopt, and the right to run the cluster."""

    plan: Planner
    rows: list[dict[str, Any]]
    lock: IO[str]


def supervisor_of(directory: Directory) -> psutil.Process | None:
    """The supervisor to take over from; None where it was killed and its processes run. Raises `ClusterError` where nothing
    runs, or the supervisor is busy."""
    now = state.read(directory)
    supervisor = state.supervisor(now)
    if supervisor is None and not any(map(processes.known, now.processes)):
        raise ClusterError(f"the cluster in {directory.root} does not run: `cluster up` starts it with this code")
    if supervisor is not None and now.phase != "ready":
        raise ClusterError(f"the cluster in {directory.root} is {now.phase}: wait until it is ready")
    return supervisor


def take_over(directory: Directory) -> Takeover:
    """Take over. Raises `ClusterError` where there is nothing to take over, or no plan."""
    old = supervisor_of(directory)
    if old is None:
        lock = prepare.lock(directory)
        rows = state.read(directory).processes
        return Takeover(_plan(directory, rows), rows, lock)
    old.suspend()
    try:
        rows = state.read(directory).processes
        plan = _plan(directory, rows)
        unknown = [child for child in old.children() if child.pid not in {row["pid"] for row in rows}]
    except BaseException:
        old.resume()
        raise
    processes.send([old, *unknown], signal.SIGKILL)  # it could not answer another signal
    processes.wait([old, *unknown], END_SECONDS)
    return Takeover(plan, rows, _lock(directory))


def _plan(directory: Directory, rows: list[dict[str, Any]]) -> Planner:
    return prepare.planner(directory, Asked(broker=_foreign_broker(directory, rows)), running=True)


def _lock(directory: Directory) -> IO[str]:
    """The old supervisor's lock: a dead process keeps its files until its last thread is gone."""
    for _ in polling.attempts(END_SECONDS, pause=0.05):
        with suppress(ClusterError):
            return prepare.lock(directory)
    return prepare.lock(directory)


def _foreign_broker(directory: Directory, rows: list[dict[str, Any]]) -> str | None:
    """The URL of a broker that is none of the cluster's processes."""
    if any(row["role"] == "redis-broker" for row in rows):
        return None
    for line in directory["env"].read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "TALLY_BROKER_URL":
            return value
    return None
