"""Likes at size: bytes of a like, and the speed of new ones beside an empty table.

Two clusters without replicas, whose PostgreSQL servers keep pages in a quarter of the machine's memory, as those of production do
(docs/deployment.md). One is filled by SQL with rows as a worker writes them, a like of every item in each statement, so its
indexes grow at random places, as they do in use. Then both get the same new likes in turn.
"""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psutil
import psycopg

from benchmarks.chaos.subject import Subject
from benchmarks.context import Context
from benchmarks.document import Goal, Part, figure
from benchmarks.figures.growth.cost import cluster
from benchmarks.figures.likes import USERS, Likes
from benchmarks.load import likes as events
from benchmarks.load.likes import FIRST_AT, TYPE
from benchmarks.peers import house

TITLE = "Likes at size"
FILL, ITEMS = 50_000_000, 200_000
SHARDS = 2
BODIES = 10  # of new likes, for each measurement
MOST_SECONDS = 1500.0  # of the fill; what is there then is measured
LEAST_FREE = 12 << 30  # bytes that stay free on the disk
ROUND = """
CREATE TEMPORARY TABLE round ON COMMIT DROP AS
SELECT n, item, user_id, at, decode(md5(n::text || ' ' || %(number)s), 'hex') AS event,
    (crc32(convert_to('/likes/' || item, 'UTF8')) & 1023)::smallint AS item_slot,
    (crc32(convert_to('/likers/' || user_id, 'UTF8')) & 1023)::smallint AS user_slot
FROM (
    SELECT n, %(prefix)s || n AS item, 'u' || %(number)s::bigint * %(stride)s %% %(users)s AS user_id,
        %(at)s::bigint + (n * 7919) %% %(items)s AS at
    FROM generate_series(0, %(items)s - 1) AS n
) AS drawn"""
LIKES = """
INSERT INTO user_likes (at, slot, liked, item, user_id, event)
SELECT at, item_slot, true, item, user_id, event FROM round JOIN shard_state ON owners[item_slot + 1] = shard
ORDER BY item, user_id"""
LIKED = """
INSERT INTO liked_items (at, slot, liked, item, user_id, event)
SELECT at, user_slot, true, item, user_id, event FROM round JOIN shard_state ON owners[user_slot + 1] = shard
ORDER BY user_id, item"""
LOG = """
INSERT INTO like_events (position, at, slot, liked, item, user_id, event)
SELECT at, at, item_slot, true, item, user_id, event FROM round JOIN shard_state ON owners[item_slot + 1] = shard
ORDER BY item, user_id"""
COUNTS = """
INSERT INTO counter (key, slot, value, version)
SELECT '/likes/' || item, item_slot, %(likes)s, at FROM round JOIN shard_state ON owners[item_slot + 1] = shard"""
SIZES = """
SELECT coalesce(parent.relname, c.relname), sum(pg_relation_size(c.oid))::bigint
FROM pg_class AS c LEFT JOIN pg_inherits ON inhrelid = c.oid LEFT JOIN pg_class AS parent ON parent.oid = inhparent
WHERE c.relkind IN ('r', 'i') AND c.relname ~ '^(user_likes|liked_items|like_events)'
GROUP BY 1"""
WRITTEN = "SELECT (pg_current_wal_lsn() - '0/0')::bigint"


class Filled:
    """Likes in a cluster, of items that exist; the first `there` users of each like it already."""

    def __init__(self, context: Context, part: Part, subject: Subject) -> None:
        self.likes = Likes(replace(context, subject=subject), part, ITEMS)
        self.subject, self.there = subject, 0
        self._prefix = f"{TYPE}/{context.run}-"

    def fill(self, wanted: int) -> None:
        """Up to so many likes, one of every item in each round; then the items' counts."""
        context, ended = self.likes.context, time.monotonic() + MOST_SECONDS
        with ThreadPoolExecutor(len(self.subject.shards)) as pool:
            while self.there * ITEMS < wanted and time.monotonic() < ended:
                if shutil.disk_usage(context.directory).free < LEAST_FREE:
                    break
                context.tell(f"filling: {self.there * ITEMS:,} likes")
                list(pool.map(self._round, range(len(self.subject.shards))))
                self.there += 1
            list(pool.map(self._end, range(len(self.subject.shards))))
        os.sync()  # otherwise the journal waits for the disk behind what the fill has left
        self.likes.likers.begin(self.there)

    def _round(self, shard: int) -> None:
        with self.subject.database(shard) as conn, conn.transaction():
            conn.execute(ROUND, self._arguments())
            for statement in (LIKED, LIKES, LOG):
                conn.execute(statement)

    def _end(self, shard: int) -> None:
        with self.subject.database(shard) as conn:
            with conn.transaction():
                conn.execute(ROUND, self._arguments())
                conn.execute(COUNTS, {"likes": self.there})
            for table in ("user_likes", "liked_items", "like_events", "counter"):
                conn.execute(f"VACUUM (ANALYZE) {table}")
        with psycopg.connect(house.admin(self.subject, shard), autocommit=True) as conn:
            conn.execute("CHECKPOINT")

    def _arguments(self) -> dict[str, Any]:
        at = FIRST_AT - 1_000_000_000_000 + self.there * ITEMS
        return {
            "prefix": self._prefix,
            "number": self.there,
            "stride": events.STRIDE,
            "users": USERS,
            "items": ITEMS,
            "at": at,
        }

    def sizes(self) -> dict[str, int]:
        """Bytes of each table and index of likes, in all shards."""
        found: dict[str, int] = {}
        for shard in range(len(self.subject.shards)):
            with self.subject.database(shard) as conn:
                for name, size in conn.execute(SIZES):
                    found[name] = found.get(name, 0) + size
        return found

    def wal(self) -> int:
        """Bytes of WAL written so far, in all shards."""
        total = 0
        for shard in range(len(self.subject.shards)):
            with self.subject.database(shard) as conn:
                total += conn.execute(WRITTEN).fetchall()[0][0]
        return total

    def send(self) -> tuple[float, float]:
        """New likes: how many a second, and bytes of WAL for each."""
        before, bodies = self.wal(), self.likes.bodies(BODIES)
        rate, _ = self.likes.send("all new", bodies)
        return rate, (self.wal() - before) / sum(map(len, bodies))


def run(context: Context) -> Part:
    """Fill one cluster, and measure both in turn."""
    part = Part()
    buffers = f"{psutil.virtual_memory().total // 4 // SHARDS >> 20}MB"
    with (
        cluster(shards=SHARDS, replicas=0, shared_buffers=buffers) as full,
        cluster(shards=SHARDS, replicas=0, shared_buffers=buffers) as empty,
    ):
        filled, other = Filled(context, part, full), Filled(context, part, empty)
        other.fill(0)
        began = time.monotonic()
        filled.fill(round(FILL * context.scale))
        seconds, there = time.monotonic() - began, filled.there * ITEMS
        sizes = {name: size / there for name, size in sorted(filled.sizes().items())}
        for one in (filled, other):
            one.send()
        wal: dict[str, list[float]] = {"full": [], "empty": []}

        def sent(one: Filled, name: str) -> float:
            rate, each = one.send()
            wal[name].append(each)
            return rate

        samples = context.interleaved(
            {"full": lambda: sent(filled, "full"), "empty": lambda: sent(other, "empty")},
        )
        context.tell("every like")
        for one in (filled, other):
            one.likes.compare()
    part.figures = [
        figure(
            f"{TITLE}, new likes into {there:,}",
            "likes/s",
            samples["full"],
            peer="an empty table",
            peer_samples=samples["empty"],
            goal=Goal("ratio", "≥", 1 / 1.3),
        ),
        figure(f"{TITLE}, tables and indexes of {there:,}", "bytes a like", [sum(sizes.values())]),
        figure(f"{TITLE}, WAL of new likes into {there:,}", "bytes a like", wal["full"]),
    ]
    part.details = {
        "likes": there,
        "items": ITEMS,
        "shared_buffers of each server": buffers,
        "seconds to fill by SQL": seconds,
        "bytes a like": sizes,
        "WAL a like": wal,
    }
    return part
