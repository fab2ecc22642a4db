"""Reads of likes from the shards: as of counters, from a replica that does not lag, else from the primary
(`counters.reading.reads.ask`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg

from counters.reading import reads
from counters.reading.reads import Consistency
from likes.names import count_key, liker_key
from sharding import topology
from sharding.slots import slot_of, slots_of

# One index probe for each pair, and each lane's newest applied version, in the same snapshot.
STATES = """
SELECT item, user_id, NULL, at, liked, coalesce(since, at) FROM user_likes
JOIN unnest(%s::text[], %s::text[], %s::smallint[]) AS wanted (item, user_id, slot) USING (item, user_id, slot)
UNION ALL SELECT NULL, NULL, lane, last_version, NULL, NULL FROM apply_state"""
# One index range scan of `limit` rows. Rows of the same moment are in the order of their names.
_PAGE = """
SELECT {other}, coalesce(since, at) FROM {table} WHERE {own} = %(own)s AND slot = %(slot)s AND liked
    AND coalesce(since, at) <= %(at)s AND (coalesce(since, at) < %(at)s OR {other} > %(name)s)
ORDER BY coalesce(since, at) DESC, {other} LIMIT %(limit)s"""
LIKERS = _PAGE.format(table="user_likes", own="item", other="user_id")
LIKED = _PAGE.format(table="liked_items", own="user_id", other="item")


class Pair(NamedTuple):
    """An item and a user."""

    item: str
    user: str


class Row(NamedTuple):
    """What a server has of a pair: the newest event, `at` 0 if there is none; and if that is a like, since when. `through`:
    the newest version that the pair's lane had applied there."""

    at: int
    liked: bool
    since: int
    through: int


class Place(NamedTuple):
    """A place in a list, newest first: liked since this moment, and of the same moment after this name."""

    at: int
    name: str


FIRST = Place(2**63 - 1, "")


def states(pairs: Sequence[Pair], consistency: Consistency = "eventual") -> dict[Pair, Row]:
    """What servers have of these pairs. Raises `ShardUnavailable`."""
    found: dict[Pair, Row] = {}
    for shard, some in by_shard(pairs).items():
        found |= states_of(shard, some, consistency)
    return found


def by_shard(pairs: Sequence[Pair]) -> dict[int, list[Pair]]:
    """Pairs by the shard that has their items."""
    groups: dict[int, list[Pair]] = {}
    shard_of = topology.current().shard_of
    for pair in pairs:
        groups.setdefault(shard_of(count_key(pair.item)), []).append(pair)
    return groups


def states_of(shard: int, pairs: Sequence[Pair], consistency: Consistency = "eventual") -> dict[Pair, Row]:
    """One shard's part of `states`."""
    keys = [count_key(pair.item) for pair in pairs]
    arguments = [pair.item for pair in pairs], [pair.user for pair in pairs], slots_of(keys)

    def query(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
        return conn.execute(STATES, arguments).fetchall()

    rows, _ = reads.ask(shard, query, replicas=consistency == "eventual")
    through = {lane: at for _, _, lane, at, *_ in rows if lane is not None}
    known = {Pair(item, user): (at, liked, since) for item, user, lane, at, liked, since in rows if lane is None}
    lane_of = topology.current().lane_of
    numbers = [lane_of(key).number for key in keys]
    return {
        pair: Row(*known.get(pair, (0, False, 0)), through.get(number, 0))
        for pair, number in zip(pairs, numbers, strict=True)
    }


def likers(item: str, after: Place, limit: int, consistency: Consistency = "eventual") -> list[Place]:
    """Who likes an item, newest first. Raises `ShardUnavailable`."""
    return _page(LIKERS, item, count_key(item), after, limit, consistency)


def liked(user: str, after: Place, limit: int, consistency: Consistency = "eventual") -> list[Place]:
    """The items that a user likes, newest first. Raises `ShardUnavailable`."""
    return _page(LIKED, user, liker_key(user), after, limit, consistency)


def _page(sql: str, own: str, key: str, after: Place, limit: int, consistency: Consistency) -> list[Place]:  # noqa: PLR0913, PLR0917
    arguments = {"own": own, "slot": slot_of(key), "at": after.at, "name": after.name, "limit": limit}

    def query(conn: psycopg.Connection[Any]) -> list[tuple[str, int]]:
        return conn.execute(sql, arguments).fetchall()

    rows, _ = reads.ask(topology.current().shard_of(key), query, replicas=consistency == "eventual")
    return [Place(at, name) for name, at in rows]
