"""Whether what is stored of likes agrees with itself: the count of an item with its likers, and what users like with who
likes an item. Rounds of reconciliation ask (`counters.reconciliation.checks`).

A count and its likers change in one transaction, so one statement sees whether they agree, whatever goes on. The two sides
of a like change in two transactions, often of two shards. So sides that differ are looked at again when everything has been
applied that waited in the journals of their lanes. They disagree if they still differ and neither has changed meanwhile.

The work of a round is bounded: counts are compared in whole ranges of slots (`replication.turns`), sides in so many rows of
each table (`Cursor`), and the next round goes on behind them. A round that finds something wrong is repeated by the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import msgspec
import psycopg
from django.conf import settings
from psycopg import sql

from counters.reconciliation.checks import MOST_NAMED, Checked
from likes import names
from likes.reading import Pair
from likes.sides import LIKED, LIKERS, Side, applied
from replication import comparisons
from replication.digest import RANGES, SLOTS_EACH
from replication.tables import Table
from replication.turns import Turns
from sharding import databases, topology
from sharding.slots import slots_of

# Compares the counters and the likers of a range of slots: an index of each, and a hash of the items.
COUNTS = """
SELECT count(*), count(*) FILTER (WHERE wrong),
    (array_agg(item || ': counted ' || value || ', liked by ' || likers ORDER BY item) FILTER (WHERE wrong))[1:%(named)s]
FROM (
    SELECT coalesce(liked.item, substr(key, length(%(prefix)s) + 1)) AS item, coalesce(value, 0) AS value,
        coalesce(likers, 0) AS likers, coalesce(value, 0) <> coalesce(likers, 0) AS wrong
    FROM (
        SELECT key, value FROM counter
        WHERE slot >= %(slot)s AND slot < %(behind)s AND key >= %(prefix)s AND key < %(end)s
    ) AS counted
    FULL JOIN (
        SELECT item, count(*) AS likers FROM user_likes
        WHERE slot >= %(slot)s AND slot < %(behind)s AND liked GROUP BY item
    ) AS liked ON counted.key = %(prefix)s || liked.item
) AS items"""
# The next rows of a range, by the primary key of its partition.
PAGE = sql.SQL("""
SELECT {first}, {second}, liked, at, event FROM {table}
WHERE slot >= %(slot)s AND slot < %(behind)s AND ({first}, {second}) > (%(after)s, %(then)s)
ORDER BY {first}, {second} LIMIT %(most)s""")
# Rows by their keys: one probe each.
STATES = sql.SQL("""
SELECT {first}, {second}, liked, at, event FROM {table}
JOIN unnest(%s::text[], %s::text[], %s::smallint[]) AS wanted (a, b, c) ON {first} = a AND {second} = b AND slot = c""")
SESSION = "SET max_parallel_workers_per_gather = 0; SET jit = off; SET application_name = 'reconciliation'"

_ROWS_PART = 10  # so many fewer rows than a digest reads, as each costs a probe of another shard
_AT_A_TIME = 2000
_MOST_DIFFERING = 10_000
_STATEMENT_SECONDS = 300.0


class State(NamedTuple):
    """The newest event of a pair, as one side has it."""

    liked: bool
    at: int
    event: bytes


States = dict[Pair, State]


# For the comparison of their copies.
TABLES = [
    Table(side.table, (side.first, side.second), ("liked", "at", "event", "earlier", "since"), "at")
    for side in (LIKERS, LIKED)
]


class Cursor(msgspec.Struct):
    """Where a round goes on: a range, and the last row of it that was looked at."""

    part: int = 0
    after: tuple[str, str] = ("", "")


def counts(shard: int) -> dict[str, Checked]:
    """Compare the counts of items with their likers. Raises `psycopg.Error`."""
    done, turns = Checked(), Turns(shard, "counts")
    with _connect(shard) as conn:
        for part in turns.due(conn, LIKERS.table):
            arguments = {"prefix": names.count_key(""), "end": names.count_key("")[:-1] + "0", "named": MOST_NAMED}
            checked, wrong, some = conn.execute(COUNTS, _bounds(part) | arguments).fetchall()[0]
            done.checked += checked
            done.wrong += wrong
            done.some += (some or [])[: MOST_NAMED - len(done.some)]
    if not done.wrong:
        turns.end()
    return {"counts of likes": done}


def sides(shard: int) -> dict[str, Checked]:
    """Compare the likers of a shard's items with what these users like, and the other way round. Raises `psycopg.Error`,
    `RedisError`, `NoTopology`."""
    with ExitStack() as stack:
        servers = _Servers(stack)
        return {
            f"{here.table} beside {there.table}": _compare(servers, shard, here, there)
            for here, there in ((LIKERS, LIKED), (LIKED, LIKERS))
        }


class _Servers:
    """A connection to each shard's primary that is needed. They close with `stack`."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack, self._open = stack, dict[int, psycopg.Connection[Any]]()

    def __getitem__(self, shard: int) -> psycopg.Connection[Any]:
        if shard not in self._open:
            self._open[shard] = self._stack.enter_context(_connect(shard))
        return self._open[shard]

    def states(self, side: Side, pairs: Iterable[Pair]) -> States:
        """What a side has of some pairs."""
        of_key: dict[str, list[Pair]] = {}
        for pair in pairs:
            of_key.setdefault(side.key_of(pair), []).append(pair)
        found: States = {}
        for shard, keys in topology.current().by_shard(of_key).items():
            wanted = [
                (*side.columns(pair), slot)
                for key, slot in zip(keys, slots_of(keys), strict=True)
                for pair in of_key[key]
            ]
            columns = [list(column) for column in zip(*wanted, strict=True)]
            found |= _states(side, self[shard].execute(side.query(STATES), columns))
        return found


def _compare(servers: _Servers, shard: int, here: Side, there: Side) -> Checked:
    done, key = Checked(), f"reconciliation:{shard}:turns:{here.table}"
    cursor = comparisons.load(key, Cursor) or Cursor()
    differing: dict[Pair, tuple[State | None, State | None]] = {}
    for states in _pages(servers[shard], here, cursor):
        began = time.monotonic()
        done.checked += len(states)
        differing |= differing_of(states, servers.states(there, list(states)))
        if len(differing) >= _MOST_DIFFERING:
            break
        time.sleep(time.monotonic() - began)  # half of the time at most
    if differing:
        wrong = _again(servers, here, there, differing)
        if wrong is None:
            done.detail = f"{len(differing)} rows differ, and what waits for their lanes was not applied in time"
        else:
            done.found([_sentence(pair, here, there, *wrong[pair]) for pair in sorted(wrong)])
    if not done.wrong:
        comparisons.store(key, cursor)
    return done


def _pages(conn: psycopg.Connection[Any], side: Side, cursor: Cursor) -> Iterator[States]:
    """Rows from the cursor on, which moves: as many as a round looks at, or all."""
    rows, parts = 0, 0
    while rows < max(1, settings.TALLY.reconcile_rows // _ROWS_PART) and parts <= RANGES:
        after, then = cursor.after
        arguments = {"after": after, "then": then, "most": _AT_A_TIME}
        found = conn.execute(side.query(PAGE), _bounds(cursor.part) | arguments).fetchall()
        if found:
            cursor.after = found[-1][0], found[-1][1]
            rows += len(found)
            yield _states(side, found)
        if len(found) < _AT_A_TIME:
            cursor.part, cursor.after = (cursor.part + 1) % RANGES, ("", "")
            parts += 1


def _states(side: Side, rows: Iterable[Sequence[Any]]) -> States:
    return {side.pair(first, second): State(*rest) for first, second, *rest in rows}


def differing_of(here: States, there: States) -> dict[Pair, tuple[State | None, State | None]]:
    """The pairs of one side that the other has otherwise. A row without a like may be missing: it goes when it is old."""
    return {pair: (one, other) for pair, one in here.items() if not agree(one, other := there.get(pair))}


def agree(one: State | None, other: State | None) -> bool:
    """Whether the two sides of a like agree."""
    if one is None or other is None:
        return not (one or other or State(False, 0, b"")).liked
    return one == other


def _again(
    servers: _Servers, here: Side, there: Side, before: Mapping[Pair, tuple[State | None, State | None]]
) -> dict[Pair, tuple[State | None, State | None]] | None:
    """Those that still differ, and have not changed, when what waits for their lanes is applied; None if that takes too
    long."""
    if not applied({side.key_of(pair) for side in (here, there) for pair in before}, settings.TALLY.reconcile_seconds):
        return None
    now: dict[Pair, tuple[State | None, State | None]] = {}
    pairs = list(before)
    for some in (pairs[first : first + _AT_A_TIME] for first in range(0, len(pairs), _AT_A_TIME)):
        ours, theirs = servers.states(here, some), servers.states(there, some)
        now |= {pair: (ours.get(pair), theirs.get(pair)) for pair in some}
    return {pair: states for pair, states in now.items() if states == before[pair] and not agree(*states)}


def _sentence(pair: Pair, here: Side, there: Side, ours: State | None, theirs: State | None) -> str:
    return f"{pair.user} and {pair.item}: {_told(ours)} in {here.table}, {_told(theirs)} in {there.table}"


def _told(state: State | None) -> str:
    return "absent" if state is None else f"{'liked' if state.liked else 'not liked'} at {state.at}"


def _bounds(part: int) -> dict[str, int]:
    return {"slot": part * SLOTS_EACH, "behind": (part + 1) * SLOTS_EACH}


def _connect(shard: int) -> psycopg.Connection[Any]:
    conn = databases.connect(databases.primary(shard), autocommit=True, timeout=_STATEMENT_SECONDS)
    conn.execute(SESSION)
    return conn
