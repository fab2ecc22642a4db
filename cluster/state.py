"""What runs now: `state.json`, written by the supervisor at every change, read by every other command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any

import psutil

from . import ClusterError
from .layout import Directory, write_private
from .processes import known

ROW = ("name", "role", "shard", "pid", "port", "metrics_port", "state", "restarts")


@dataclass
class State:
    """`phase`: starting, upgrading, ready, stopping or stopped; `error`: the sentence of a start, a scale or an upgrade
    that failed. What is new stands in `supervisor`: an earlier version does not read a file with other fields."""

    url: str | None = None
    phase: str = "stopped"
    error: str | None = None
    supervisor: dict[str, Any] = field(default_factory=dict)
    processes: list[dict[str, Any]] = field(default_factory=list)
    primaries: dict[str, int] = field(default_factory=dict)  # shard → node that was last its primary
    revision: int = 0  # of what `cluster scale` and `loadbalancer` asked for

    @property
    def connections(self) -> dict[str, int]:
        """`shard`, `most` and `limit` of the connection budget that has the least room; empty where none is known."""
        found: dict[str, int] = self.supervisor.get("connections", {})
        return found

    @property
    def front(self) -> dict[str, Any]:
        """`runtime.balancing.State` as the supervisor last had it; empty where that is not known."""
        found: dict[str, Any] = self.supervisor.get("front", {})
        return found

    def public(self, lanes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """The answer of `status --json`; `lanes` are the lanes that each worker applies (see `lanes.by_worker`).

        A PostgreSQL server has a `mode` as well, "primary" or "replica", and a replica `streaming`: whether it receives
        its primary's commits, as its Patroni says; null for a primary. `connections`: how many all processes together
        may open to the primary that has the least room for them, and how many it takes.
        """
        rows = [self._public(row, lanes) for row in self.processes]
        return {"url": self.url, "processes": rows, "connections": self.connections}

    @property
    def primary_names(self) -> set[str]:
        """Names of the PostgreSQL servers that were last seen to take writes."""
        return {f"postgres-{shard}-{node}" for shard, node in self.primaries.items()}

    def _public(self, row: Mapping[str, Any], lanes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        shown = {name: row[name] for name in ROW} | {"lanes": list(lanes.get(row["name"], ()))}
        if row["role"] == "postgres":
            is_primary = row["name"] in self.primary_names
            shown |= {
                "mode": "primary" if is_primary else "replica",
                "streaming": None if is_primary else is_streaming(row),
            }
        return shown


def is_streaming(row: Mapping[str, Any]) -> bool:
    """Whether this row is of a PostgreSQL server that follows its primary."""
    return row["state"] == "running" and bool(row.get("streaming"))


def read(directory: Directory) -> State:
    """The last state that was written; an empty one where none was."""
    path = directory["state.json"]
    try:
        found = json.loads(path.read_text())
        return State(**{field.name: found[field.name] for field in fields(State) if field.name in found})
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(f"{path} is broken ({error!r}): remove that file; `cluster up` writes it anew") from error


def write(directory: Directory, state: State) -> None:
    write_private(directory["state.json"], json.dumps(state.__dict__))


def supervisor(state: State) -> psutil.Process | None:
    """The supervisor that wrote this state, if it still runs."""
    return known(state.supervisor)


def processor_seconds(state: State, role: str) -> dict[int, float]:
    """The processor time in seconds that each running process of a role has used since it began, by its process id."""
    used: dict[int, float] = {}
    for row in state.processes:
        if row["role"] == role and row["state"] == "running" and (process := known(row)) is not None:
            with suppress(psutil.Error):  # it ended just now
                times = process.cpu_times()
                used[process.pid] = times.user + times.system
    return used


def current(directory: Directory) -> State:
    """The state as it is: where no supervisor runs, what is gone is `stopped`."""
    state = read(directory)
    if supervisor(state) is None:
        if state.phase != "stopped":
            state.phase = "stopped"
        for row in state.processes:
            if known(row) is None:
                row.update(pid=None, state="stopped")
    return state
