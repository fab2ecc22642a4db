"""Celery as it comes: a task for each write, `acks_late`, Redis as broker, one UPDATE that adds one (what Django's
`F()` makes).

Run as `celery -A benchmarks.chaos.stock_app worker`. `seen` is the bench's own: which write was counted, in the same
transaction.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import psycopg
from celery import Celery

BROKER, DATABASE = "CHAOS_STOCK_BROKER", "CHAOS_STOCK_DATABASE"  # variables of the environment
TABLES = """
DROP TABLE IF EXISTS chaos_stock, chaos_stock_seen;
CREATE TABLE chaos_stock (key text PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE chaos_stock_seen (write bigint NOT NULL)"""
DROP = "DROP TABLE IF EXISTS chaos_stock, chaos_stock_seen"
ADD = "UPDATE chaos_stock SET n = n + 1 WHERE key = %s"
SEEN = "INSERT INTO chaos_stock_seen (write) VALUES (%s)"
VISIBILITY_SECONDS = 5  # Celery's default is an hour: until then nothing is delivered again at all

app = Celery("stock", broker=os.environ.get(BROKER, "memory://"), set_as_current=False)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    broker_transport_options={"visibility_timeout": VISIBILITY_SECONDS},
    broker_connection_retry_on_startup=True,
)


@cache
def _connection() -> psycopg.Connection[Any]:
    return psycopg.connect(os.environ[DATABASE], autocommit=True)


@app.task(name="stock.add")
def add(key: str, write: int) -> None:
    """One write."""
    conn = _connection()
    with conn.transaction():
        conn.execute(ADD, (key,))
        conn.execute(SEEN, (write,))
