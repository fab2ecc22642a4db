"""Processes of the system, by psutil: who they are beyond doubt, waiting for their end, killing a group.

A process is known by pid and create time together, so that a stranger who got the pid later is never touched. A zombie
counts as gone: it runs no more, and its parent may be slow to collect it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Mapping
from typing import Any

import psutil

from runtime import polling

POLL_SECONDS = 0.05


def create_time(pid: int | None) -> float | None:
    """When the process began, in seconds since the epoch; None where it is gone."""
    try:
        return None if pid is None else psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def known(row: Mapping[str, Any]) -> psutil.Process | None:
    """The live process of a row with `pid` and `create_time`; None where it is gone, or the pid is another's by now."""
    try:
        process = psutil.Process(row["pid"])
        same = abs(process.create_time() - row["create_time"]) < 0.05
    except (psutil.Error, KeyError, TypeError, ValueError):
        return None
    return process if same and not is_gone(process) else None


def children_of(pid: int) -> set[int]:
    """The pids of a process's children; none where it is gone."""
    try:
        return {child.pid for child in psutil.Process(pid).children() if not is_gone(child)}
    except psutil.Error:
        return set()


def with_variable(name: str, value: str) -> list[psutil.Process]:
    """Every process that has this variable in its environment, as it was at its start."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(name) == value:
                found.append(process)
    return found


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return True


def wait(processes: Iterable[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all have ended, so many seconds at most; those that have not."""
    alive = list(processes)
    for _ in polling.attempts(seconds, pause=POLL_SECONDS):
        alive = [process for process in alive if not is_gone(process)]
        if not alive:
            break
    return alive


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Signal each that is still there."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def kill_group(leader: int) -> None:
    """SIGKILL to what is left of the process group that `leader` led."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
