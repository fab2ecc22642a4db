"""Time partitions of the ledger, related tables and those that other rooms register: created ahead, dropped when old.

I2 needs a ledger row as long as its batch may be applied again: a partition is dropped only when it is older than the
retention *and* than the oldest entry of the shard's journals. Rows outside every partition (a wrong clock) are kept in
the default partition and deleted row by row. Rooms may also register what else is to be deleted some time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import time
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import structlog
from django.conf import settings
from psycopg import sql

from counters.intake import journal
from counters.intake.journal import Journal
from runtime import redis
from sharding import databases

DAYS_AHEAD = 3
PARTITIONS = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = %s::regclass"""
# A worker's role may not change tables: the functions do, with the rights of their owner (`sharding.roles`).
CREATE_DAY = "SELECT create_day(%s, %s::date, %s, %s)"
DROP_DAY = "SELECT drop_day(%s, %s::date)"
Place = Callable[[datetime], Any]
Purge = Callable[[int, datetime], int]
log = structlog.get_logger(__name__)


def first_uuid(at: datetime) -> UUID:
    """The smallest UUIDv7 of a moment (RFC 9562: 48 bits of milliseconds since 1970, then the rest)."""
    return UUID(int=(int(at.timestamp() * 1000) & (1 << 48) - 1) << 80)


def _itself(at: datetime) -> datetime:
    return at


class Table(NamedTuple):
    """A table with a partition for each day, and `NAME_default` for rows outside. `bound`: a moment as the partition key
    has it. `age`, `moment`: the column that tells when to delete such a row, and a moment as that column has it."""

    name: str
    bound: Place = first_uuid
    age: str = "applied_at"
    moment: Place = _itself


_tables = [Table("ledger"), Table("outcome"), Table("forwarded"), Table("idempotency", bound=_itself)]
_purges: list[Purge] = []


def register(table: Table, purge: Purge) -> None:
    """Keep the partitions of another room's table, and have its other old rows deleted. `purge` is called with a shard
    and the moment before which they are not needed any more, and returns how many there were."""
    if table not in _tables:
        _tables.append(table)
        _purges.append(purge)


def maintain(shard: int) -> list[str]:
    """Create due partitions, drop old ones, and record the time in the journal's Redis. Returns the dropped names.

    Raises `psycopg.Error`, `RedisError`.
    """
    entries = [entry for lane in journal.occupied(shard) for entry in Journal(lane).entries(limit=1)]
    oldest = datetime.fromtimestamp(min(entry.position for entry in entries) / 1e6, UTC) if entries else None
    create_ahead(shard)
    dropped = drop_old(shard, retention_days=settings.TALLY.retention_days, oldest_entry=oldest)
    for purge in _purges:
        purge(shard, (oldest or datetime.now(UTC)) - timedelta(days=settings.TALLY.retention_days))
    redis.journal().set(_maintained_key(shard), time())
    return dropped


def maintained_at(shard: int) -> float:
    """Unix time of the last `maintain`, 0 if never. Raises `RedisError`."""
    return float(redis.journal().get(_maintained_key(shard)) or 0)


def _maintained_key(shard: int) -> str:
    return f"partitions:{shard}:maintained"


def create_ahead(shard: int, now: datetime | None = None) -> None:
    """Create the partitions of yesterday, today and the next `DAYS_AHEAD` days. Raises `psycopg.Error`."""
    now = now or datetime.now(UTC)
    with databases.connect(databases.primary(shard), autocommit=True) as conn:
        for table in _tables:
            for ahead in range(-1, DAYS_AHEAD + 1):
                _create(conn, table, _midnight(now + timedelta(days=ahead)))


def drop_old(
    shard: int, *, retention_days: int, oldest_entry: datetime | None, now: datetime | None = None
) -> list[str]:
    """Drop partitions older than the retention and than the journal's oldest entry. Returns their names. Raises
    `psycopg.Error`."""
    now = now or datetime.now(UTC)
    oldest = min(now - timedelta(days=retention_days), oldest_entry or now)
    with databases.connect(databases.primary(shard), autocommit=True) as conn:
        return [name for table in _tables for name in _drop_older(conn, table, oldest)]


def oldest(shard: int) -> datetime | None:
    """The beginning of the oldest partition of the ledger; None before there is one. Raises `psycopg.Error`."""
    with databases.connection(databases.primary(shard)) as conn:
        days = [name.removeprefix("ledger_") for (name,) in conn.execute(PARTITIONS, ("ledger",))]
    dates = [datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC) for day in days if day.isdigit()]
    return min(dates, default=None)


def _midnight(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _create(conn: psycopg.Connection[Any], table: Table, day: datetime) -> None:
    start, end = table.bound(day), table.bound(day + timedelta(days=1))
    try:
        conn.execute(CREATE_DAY, (table.name, day.date(), str(start), str(end)))
    except psycopg.errors.CheckViolation:
        log.warning(
            "partition_late", table=table.name, day=day.date().isoformat(), note="its rows are in the default partition"
        )


def _drop_older(conn: psycopg.Connection[Any], table: Table, oldest: datetime) -> list[str]:
    dropped = []
    for (name,) in conn.execute(PARTITIONS, (table.name,)).fetchall():
        day = name.removeprefix(f"{table.name}_")
        if not day.isdigit():
            continue
        begins = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
        if begins + timedelta(days=1) <= oldest:
            conn.execute(DROP_DAY, (table.name, begins.date()))
            dropped.append(name)
    conn.execute(
        sql.SQL("DELETE FROM {} WHERE {} < {}").format(
            sql.Identifier(f"{table.name}_default"), sql.Identifier(table.age), sql.Literal(table.moment(oldest))
        )
    )
    return dropped
