"""Whether each server of a shard archives its WAL, as the server itself says (`pg_stat_archiver`).

PostgreSQL keeps WAL until it is archived. If that fails for long, the disk is full, and the server stops. Each question is
for one server, so that one that hangs delays no other answer.
"""

from __future__ import annotations

from typing import NamedTuple

from replication import copies
from sharding import nodes
from sharding.nodes import Node

# pg_monitor may read all of it: a row of shared memory, and the names of the files that wait.
STATE = """
SELECT (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'),
       last_failed_time IS NOT NULL AND last_failed_time > coalesce(last_archived_time, '-infinity')
FROM pg_stat_archiver WHERE current_setting('archive_mode') <> 'off'"""


class Archiving(NamedTuple):
    """The archiver of a server: how many files wait for it, and whether its last attempt failed."""

    node: str
    waiting: int
    fails: bool


def ask(shard: int, node: Node) -> Archiving | None:
    """The archiver of a node; None if it archives nothing. Raises `psycopg.Error`."""
    with nodes.connect(shard, node, timeout=copies.SECONDS) as conn:
        row = conn.execute(STATE).fetchone()
    return Archiving(copies.name_of(node), *row) if row else None
