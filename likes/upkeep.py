"""Upkeep of the tables of likes: the partitions of the event log, and unlikes that are older than the retention.

An unlike keeps late events that are older from counting. Its row goes when every event to come takes it for forgotten
(`likes.state`): when it is older than the retention before the oldest entry of the shard's journals. So no copy and no
count depends on when it goes.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import structlog

from counters.apply.partitions import Table
from sharding import databases

_MOST = 5000  # rows in a transaction
_SQL = {name: (Path(__file__).parent / "sql" / f"{name}.sql").read_text() for name in ("purge_likes", "purge_liked")}
log = structlog.get_logger(__name__)


def microseconds(at: datetime) -> int:
    """A moment as positions and versions have it."""
    return int(at.timestamp() * 1e6)


EVENTS = Table("like_events", bound=microseconds, age="position", moment=microseconds)


def purge(shard: int, before: datetime) -> int:
    """Delete the unlikes that are older than this from a shard, in both copies. Returns how many. Raises
    `psycopg.Error`."""
    deleted = 0
    with databases.connect(databases.primary(shard), autocommit=True) as conn:
        for statement in _SQL.values():
            some = _MOST
            while some == _MOST:
                some = conn.execute(statement, {"before": microseconds(before), "most": _MOST}).rowcount
                deleted += some
    if deleted:
        log.info("unlikes_purged", shard=shard, rows=deleted)
    return deleted
