"""What a supervisor that was killed has left behind: found by pid and create time, stopped in order.

A process of the cluster is known in three ways: its row in state.json, the postmaster.pid of a data directory of this
cluster, and the mark in its environment (`plan.MARK`), which finds children whose parents are gone.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import psutil

from . import postgres, processes, state
from .layout import Directory
from .plan import MARK, stages

STOP_SECONDS = 15.0  # for SIGTERM, then SIGKILL
PATRONI_STOP_SECONDS = 45.0
KILLED_SECONDS = 5.0  # for servers to end after SIGKILL: until then they may make files


def stop(directory: Directory) -> list[str]:
    """Stop all that is left of this cluster; the names of what was found. Only while no supervisor runs."""
    last = state.read(directory)
    alive = {row["name"]: (row["role"], process) for row in last.processes if (process := processes.known(row))}
    primaries = {f"patroni-{shard}-{node}" for shard, node in last.primaries.items()}
    for stage in stages({name: role for name, (role, _) in alive.items()}, primaries.__contains__):
        seconds = PATRONI_STOP_SECONDS if stage[0].startswith("patroni") else STOP_SECONDS
        end([alive[name][1] for name in stage], seconds)
    orphans = [f"postgres in {data}" for data in _data_directories(directory) if postgres.stop_orphan(data)]
    strays = marked(directory)
    end(strays, 3.0)
    return [*alive, *orphans, *(f"pid {process.pid}" for process in strays)]


def marked(directory: Directory) -> list[psutil.Process]:
    """Every process with this cluster's mark, apart from this one and those that it descends from."""
    mine = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    return [process for process in processes.with_variable(MARK, str(directory.root)) if process.pid not in mine]


def kill_all(directory: Directory) -> None:
    """SIGKILL for everything, PostgreSQL included: the user has no patience left, or the data are to be deleted."""
    processes.send(marked(directory), signal.SIGKILL)  # Patroni first: it would start PostgreSQL again
    postmasters = [process for data in _data_directories(directory) if (process := postgres.postmaster(data))]
    families = [member for process in postmasters for member in postgres.family(process)]
    processes.send(families, signal.SIGKILL)
    processes.wait(families, KILLED_SECONDS)


def _data_directories(directory: Directory) -> list[Path]:
    return sorted(directory["shards"].glob("*/*/data"))


def end(leaders: Sequence[psutil.Process], seconds: float = STOP_SECONDS) -> None:
    """SIGTERM, after so many seconds SIGKILL, for each and then for what is left of its group."""
    processes.send(leaders, signal.SIGTERM)
    alive = processes.wait(leaders, seconds)
    processes.send(alive, signal.SIGKILL)
    processes.wait(alive, 5)
    for process in leaders:
        processes.kill_group(process.pid)
