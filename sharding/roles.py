"""PostgreSQL's roles of the processes, and what each may do: the rights of all tables stand here, and nowhere else.

The owner (`TALLY_DATABASE_USER` of `manage.py`) makes and changes tables. An API process logs in as `tally_api`: it reads
shards and changes rows of the control database. A worker, beat, Flower and the watcher of disks log in as `tally_worker`:
it changes rows of shards, and of the control database it sees orders to carry out. Neither owns anything, so none may
change a table. A superuser makes the roles (`cluster.postgres.provide`), the owner gives them their rights after each
migration (`sharding.grants`). Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

API, WORKER = "tally_api", "tally_worker"
ROLES = (API, WORKER)
EXISTING = "SELECT rolname FROM pg_roles"

ROWS = ("SELECT", "INSERT", "UPDATE", "DELETE")
MIGRATIONS = "django_migrations"
RECORD = ("INSERT", "UPDATE (outcome)")  # of an intervention: who ordered what stays as it was written
# What API processes may do beside reading, where it is not all.
LESS: dict[str, tuple[str, ...]] = {
    MIGRATIONS: (),
    "replication_intervention": RECORD,
    "counters_auditentry": ("INSERT",),
}
DAYS = ("create_day(text, date, text, text)", "drop_day(text, date)")  # partitions, made and dropped for a worker
# Tables of the control database that a worker needs: removals to do, and interventions, which healing makes and /status
# shows.
WORKERS_TABLES = {"likes_removal": ("SELECT", "UPDATE"), "replication_intervention": ("SELECT", *RECORD)}


class Right(NamedTuple):
    """What a role may do with some tables."""

    role: str
    privileges: Collection[str]
    tables: Collection[str]


def on_control(tables: Collection[str]) -> list[Right]:
    """The rights in the control database, which has these tables."""
    return [
        Right(API, ["SELECT"], tables),
        Right(API, ROWS, [table for table in tables if table not in LESS]),
        *(Right(API, privileges, [table]) for table, privileges in LESS.items() if table in tables and privileges),
        *(Right(WORKER, privileges, [table]) for table, privileges in WORKERS_TABLES.items() if table in tables),
    ]


def on_shard(tables: Collection[str]) -> list[Right]:
    """The rights in a shard, which has these tables."""
    return [
        *(Right(role, ["SELECT"], tables) for role in ROLES),
        Right(WORKER, ROWS, [table for table in tables if table != MIGRATIONS]),
    ]


def missing(existing: Iterable[tuple[str]]) -> list[str]:
    """The roles that a server lacks, from the rows of `EXISTING`."""
    there = {name for (name,) in existing}
    return [role for role in ROLES if role not in there]
