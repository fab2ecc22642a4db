"""How full the pages of the counters are (`TALLY_COUNTER_FILLFACTOR`): bytes a counter against speed.

It counts for pages that are written from now on. Full pages stay until the table is written anew (docs/operating.md).
"""

from __future__ import annotations

from django.conf import settings
from psycopg import sql

from sharding import databases

OTHERS = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'counter'::regclass AND NOT coalesce(%s = ANY(c.reloptions), false) ORDER BY 1"""


def put_in_force(shard: int) -> int:
    """Set the fill of a shard's partitions that have another. Returns how many had. Raises `psycopg.Error`.

    It waits for a vacuum of the partition, and delays no write.
    """
    percent = settings.TALLY.counter_fillfactor
    with databases.connect(databases.primary(shard), autocommit=True) as conn:
        others = conn.execute(OTHERS, [f"fillfactor={percent}"]).fetchall()
        for (name,) in others:
            conn.execute(
                sql.SQL("ALTER TABLE {} SET (fillfactor = {})").format(sql.Identifier(name), sql.Literal(percent))
            )
    return len(others)
