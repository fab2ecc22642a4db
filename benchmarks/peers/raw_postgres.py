"""Raw PostgreSQL: the bodies themselves, folded and upserted by one statement each, two connections. No HTTP, no ids,
no queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import psycopg

CONNECTIONS = 2
UPSERT = """
INSERT INTO count AS c (key, value) SELECT key, count(*) FROM unnest(%s::text[]) AS body (key) GROUP BY key ORDER BY key
ON CONFLICT (key) DO UPDATE SET value = c.value + excluded.value"""


def measure(dsn: str, bodies: Sequence[Sequence[str]], seconds: float) -> tuple[float, list[int]]:
    """Increments a second, committed, and how often each body was."""
    done = [0] * len(bodies)
    end = time.monotonic() + seconds

    def upsert(first: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            number = first
            while time.monotonic() < end:
                conn.execute(UPSERT, (list(bodies[number]),))
                done[number] += 1
                number = (number + CONNECTIONS) % len(bodies)

    started = time.monotonic()
    threads = [threading.Thread(target=upsert, args=(first,)) for first in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    increments = sum(times * len(body) for times, body in zip(done, bodies, strict=True))
    return increments / (time.monotonic() - started), done
