"""How many connections to a PostgreSQL server all processes together may open, and how many it takes. Pure.

A pool may fill up, and libpq lets the pools of replicas fall back to the primary. So the primary of a shard may get what
this module adds up; that of shard 0 has the control database, too. Replication does not count: PostgreSQL has
`max_wal_senders` for it, beside `max_connections`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RESERVED = 3  # PostgreSQL keeps them for superusers (`superuser_reserved_connections`)
PATRONI = 3  # each Patroni's to its own server
COMMANDS = 8  # `manage.py`, psql, a probe
API_LOOKS = 4  # of an API process to each server: statistics, the archiver, what operators ask
SPILL_TASKS = 8  # that a spill worker runs at once
SPILL_LOOKS = 2  # of a spill worker, for the status page: to the shard, and to the control database
SPILL_SHIFTS = 4  # of these, those that apply a spill queue: each keeps a connection of its own for a while
ELSEWHERE = 1  # of a worker to every shard: it reads the topology


@dataclass(frozen=True)
class Fleet:
    """The processes, and the settings that say how many connections each may open. `workers`: of each shard."""

    api: int
    workers: Sequence[int]
    spill_workers: int
    pool_size: int  # TALLY_DATABASE_POOL_SIZE
    worker_concurrency: int  # TALLY_WORKER_CONCURRENCY
    max_connections: int  # PostgreSQL's


@dataclass(frozen=True)
class Budget:
    """Of a shard's primary: the most connections by kind of process, and how many it takes."""

    shard: int
    api: int
    workers: int
    spill_workers: int
    commands: int
    limit: int

    @property
    def most(self) -> int:
        return self.api + self.workers + self.spill_workers + self.commands


class TooManyConnections(ValueError):
    """The processes could open more connections than a server takes; the text says what to change."""


def of(fleet: Fleet, shard: int) -> Budget:
    """The budget of one shard's primary."""
    has_control = shard == 0
    others = sum(fleet.workers) - fleet.workers[shard]
    return Budget(
        shard,
        api=fleet.api * _of_api(fleet, has_control=has_control),
        workers=fleet.workers[shard] * (fleet.worker_concurrency + ELSEWHERE) + others * ELSEWHERE,
        spill_workers=fleet.spill_workers * ((2 + has_control) * SPILL_TASKS + SPILL_SHIFTS + SPILL_LOOKS),
        commands=COMMANDS,
        limit=fleet.max_connections - RESERVED - PATRONI,
    )


def worst(fleet: Fleet) -> Budget:
    """The budget of the primary that has the least room."""
    return max((of(fleet, shard) for shard in range(len(fleet.workers))), key=lambda one: one.most)


def check(fleet: Fleet) -> None:
    """Raises `TooManyConnections`."""
    found = worst(fleet)
    if found.most <= found.limit:
        return
    raise TooManyConnections(
        f"{_count(fleet.api, 'API process', 'es')} and {_count(fleet.workers[found.shard], 'worker', 's')} could open "
        f"{found.most} connections to the primary of shard {found.shard}, which takes {found.limit}: "
        f"{', or '.join(_advice(fleet, found))}, or raise max_connections"
    )


def _advice(fleet: Fleet, found: Budget) -> list[str]:
    """What would make it fit."""
    has_control, workers = found.shard == 0, fleet.workers[found.shard]
    rest = found.limit - (found.most - found.api)  # for the API processes
    if fitting := max(0, rest // _of_api(fleet, has_control=has_control)):
        advice = [f"{_count(fitting, 'API process', 'es')} at most"]
    else:
        advice = ["fewer workers"]
    if (size := (rest // fleet.api - API_LOOKS) // (2 + has_control)) >= 1:
        advice.append(f"TALLY_DATABASE_POOL_SIZE={size}")
    spare = found.most - found.limit
    if workers and (tasks := fleet.worker_concurrency - -(-spare // workers)) >= 1:
        advice.append(f"TALLY_WORKER_CONCURRENCY={tasks}")
    return advice


def _count(number: int, noun: str, plural: str) -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def _of_api(fleet: Fleet, *, has_control: bool) -> int:
    """The pools of the primary, of the replicas and of the control database."""
    return (2 + has_control) * fleet.pool_size + API_LOOKS
