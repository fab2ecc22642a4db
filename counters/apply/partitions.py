"""Time partitions of the ledger and related tables: created ahead, dropped when old.

I2 needs a ledger row as long as its batch may be applied again: a partition is dropped only when it is older than the
retention *and* than the oldest entry of the shard's journals. Rows outside every partition (a wrong clock) are kept in
the default partition and deleted row by row.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from time import time
from typing import Any
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
BY_ID = ("ledger", "outcome", "forwarded")
BY_TIME = ("idempotency",)
PARTITIONS = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = %s::regclass"""
log = structlog.get_logger(__name__)


def maintain(shard: int) -> list[str]:
    """Create due partitions, drop old ones, and record the time in the journal's Redis. Returns the dropped names.

    Raises `psycopg.Error`, `RedisError`.
    """
    entries = [entry for lane in journal.occupied(shard) for entry in Journal(lane).entries(limit=1)]
    oldest = datetime.fromtimestamp(min(entry.position for entry in entries) / 1e6, UTC) if entries else None
    create_ahead(shard)
    dropped = drop_old(shard, retention_days=settings.TALLY.retention_days, oldest_entry=oldest)
    redis.journal().set(_maintained_key(shard), time())
    return dropped


def maintained_at(shard: int) -> float:
    """Unix time of the last `maintain`, 0 if never. Raises `RedisError`."""
    return float(redis.journal().get(_maintained_key(shard)) or 0)


def _maintained_key(shard: int) -> str:
    return f"partitions:{shard}:maintained"


def first_uuid(at: datetime) -> UUID:
    """The smallest UUIDv7 of a moment (RFC 9562: 48 bits of milliseconds since 1970, then the rest)."""
    return UUID(int=(int(at.timestamp() * 1000) & (1 << 48) - 1) << 80)


def create_ahead(shard: int, now: datetime | None = None) -> None:
    """Create the partitions of yesterday, today and the next `DAYS_AHEAD` days. Raises `psycopg.Error`."""
    now = now or datetime.now(UTC)
    with databases.connect(databases.primary(shard), autocommit=True) as conn:
        for table in BY_ID + BY_TIME:
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
        return [name for table in BY_ID + BY_TIME for name in _drop_older(conn, table, oldest)]


def oldest(shard: int) -> datetime | None:
    """The beginning of the oldest partition of the ledger; None before there is one. Raises `psycopg.Error`."""
    with databases.connection(databases.primary(shard)) as conn:
        days = [name.removeprefix("ledger_") for (name,) in conn.execute(PARTITIONS, ("ledger",))]
    dates = [datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC) for day in days if day.isdigit()]
    return min(dates, default=None)


def _midnight(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _create(conn: psycopg.Connection[Any], table: str, day: datetime) -> None:
    start: UUID | datetime = day
    end: UUID | datetime = day + timedelta(days=1)
    if table in BY_ID:
        start, end = first_uuid(day), first_uuid(day + timedelta(days=1))
    statement = sql.SQL("CREATE TABLE IF NOT EXISTS {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
        sql.Identifier(f"{table}_{day:%Y%m%d}"), sql.Identifier(table), sql.Literal(str(start)), sql.Literal(str(end))
    )
    try:
        conn.execute(statement)
    except psycopg.errors.CheckViolation:
        log.warning(
            "partition_late", table=table, day=day.date().isoformat(), note="its rows are in the default partition"
        )


def _drop_older(conn: psycopg.Connection[Any], table: str, oldest: datetime) -> list[str]:
    dropped = []
    for (name,) in conn.execute(PARTITIONS, (table,)).fetchall():
        day = name.removeprefix(f"{table}_")
        if day.isdigit() and datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC) + timedelta(days=1) <= oldest:
            conn.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
            dropped.append(name)
    conn.execute(
        sql.SQL("DELETE FROM {} WHERE applied_at < {}").format(sql.Identifier(f"{table}_default"), sql.Literal(oldest))
    )
    return dropped
