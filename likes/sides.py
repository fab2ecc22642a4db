"""The two sides of likes: the tables of who likes an item, and of what a user likes. Which row is where, and when all that
was accepted is applied."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from psycopg import sql

from counters.intake.journal import CLOCK, Journal, JournalUnavailable
from likes.names import count_key, liker_key
from likes.reading import Pair
from runtime import polling, redis
from sharding import topology
from sharding.lanes import QUEUES


@dataclass(frozen=True)
class Side:
    """One of the two tables: its columns as its primary key has them, and the key whose lane has a pair's row."""

    table: str
    first: str
    second: str
    key_of: Callable[[Pair], str]

    def query(self, query: sql.SQL) -> sql.Composed:
        """A query on this table."""
        columns = {name: sql.Identifier(getattr(self, name)) for name in ("table", "first", "second")}
        return query.format(**columns)

    def columns(self, pair: Pair) -> tuple[str, str]:
        """A pair in the order of the columns."""
        return (pair.item, pair.user) if self.first == "item" else (pair.user, pair.item)

    def pair(self, first: str, second: str) -> Pair:
        """The pair with these columns."""
        return Pair(first, second) if self.first == "item" else Pair(second, first)


LIKERS = Side("user_likes", "item", "user_id", lambda pair: count_key(pair.item))
LIKED = Side("liked_items", "user_id", "item", lambda pair: liker_key(pair.user))


def clock() -> int:
    """A position after that of every write that was accepted, and before that of every later one. Raises `RedisError`,
    `JournalUnavailable` if the journal has lost its clock."""
    found = redis.journal().get(CLOCK)
    if found is None:
        raise JournalUnavailable("the journal has no clock yet")
    return int(found)


def applied(keys: Iterable[str], seconds: float) -> bool:
    """Wait until everything is applied that was accepted so far in the lanes of these keys. Returns whether it was within
    `seconds`. Raises `RedisError`, `NoTopology`."""
    lanes = topology.current().by_lane({*keys})
    journals = [Journal(lane.of(queue)) for lane in lanes for queue in QUEUES]
    end = clock()
    return polling.until(lambda: not any(one.entries(through=end, limit=1) for one in journals), seconds, pause=0.1)
