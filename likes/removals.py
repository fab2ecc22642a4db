"""Removals: every like of a user goes, every count is corrected exactly once, and the event log forgets the user.

A removal has the position of its request. It removes what was accepted before; what is accepted afterwards stays.

- Each like becomes an unlike whose moment is the removal's position: after the moment of every event that was accepted
  before, and before that of every event that is accepted later. It is a write like any other, so the count is corrected with
  it, and writing it again changes nothing.
- When the unlikes are applied, and nothing from before waits in the journals of their lanes, the rows are deleted on both
  sides, that of the user last: its rows say what is left to do.
- Then the event log forgets the user, on every shard, and the removal forgets the name.

So a removal may be killed anywhere and begun again (`unfinished`). An event that arrives during a removal, with an older
timestamp than the request, is removed with the others. No event of the log is written again meanwhile (`locks`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import structlog
from django.conf import settings
from psycopg import sql

from counters import service
from counters.intake.admission import Limited
from counters.intake.journal import JournalUnavailable
from likes import recent, state, writes
from likes.events import Event
from likes.models import Removal
from likes.names import liker_key
from likes.reading import Pair
from likes.sides import LIKED, LIKERS, Side, applied, clock
from runtime.broker import broker
from sharding import databases, lanes, topology
from sharding.lanes import Lane
from sharding.slots import slot_of, slots_of

TASK = "likes.remove_users"
APPLIED_SECONDS = 60.0  # for what waits in the journals; then the removal goes on later
_AT_A_TIME = 1000
_STATEMENT_SECONDS = 600.0  # to look through a day of the event log
# No event has a removal's position as its moment but its own unlikes, and a like that states it and comes later.
COUNT = "SELECT count(*) FROM liked_items WHERE user_id = %s AND slot = %s AND (at, liked) < (%s, true)"
PAGE = """
SELECT item, liked FROM liked_items WHERE user_id = %s AND slot = %s AND (at, liked) < (%s, true) ORDER BY item LIMIT %s"""
AFTERWARDS = """
SELECT item FROM liked_items WHERE user_id = %s AND slot = %s AND at >= %s AND item > %s ORDER BY item LIMIT %s"""
LOCK = "SELECT pg_advisory_xact_lock(%s, %s)"
DELETE = sql.SQL("""
DELETE FROM {table} USING unnest(%s::text[], %s::text[], %s::smallint[]) AS wanted (a, b, c)
WHERE {first} = a AND {second} = b AND slot = c AND NOT liked AND at <= %s""")
EARLIER = sql.SQL("""
SELECT earlier, liked AND since <= %s, {first}, {second}, slot FROM {table}
JOIN unnest(%s::text[], %s::text[], %s::smallint[]) AS wanted (a, b, c) ON {first} = a AND {second} = b AND slot = c
WHERE earlier IS NOT NULL OR (liked AND since <= %s)""")
SHORTEN = sql.SQL("""
UPDATE {table} SET earlier = %s, since = CASE WHEN %s THEN NULL ELSE since END
WHERE {first} = %s AND {second} = %s AND slot = %s""")
DAYS = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'like_events'::regclass ORDER BY 1"
FORGET = sql.SQL("DELETE FROM {} WHERE user_id = %s AND (at, liked) < (%s, true)")
log = structlog.get_logger(__name__)


class Unfinished(Exception):
    """A removal cannot go on now; the text says why. It is begun again later."""


def ask(user: str, by: str, id: UUID) -> Removal:
    """Have a user removed. The same `id` is the same removal. Raises `RedisError`, `django.db.OperationalError`, kombu's
    `OperationalError` (then the removal begins within a minute)."""
    found, is_new = Removal.objects.get_or_create(id=id, defaults={"user": user, "position": clock(), "by": by})
    if is_new:
        broker().send_task(TASK, ignore_result=True, retry=False)
    return found


def find(id: UUID | str) -> Removal:
    """A removal. Raises `Removal.DoesNotExist`, `ValidationError` for what is no id, `django.db.OperationalError`."""
    return Removal.objects.get(id=id)


def exist() -> bool:
    """Whether there is anything to be done."""
    return Removal.objects.filter(ended_at=None).exists()


def unfinished() -> Iterator[Removal]:
    """The removals to be done, oldest first."""
    return Removal.objects.filter(ended_at=None).order_by("asked_at").iterator()


def run(removal: Removal, stopping: Callable[[], bool] = lambda: False) -> None:
    """Do a removal, or go on with it. The process must have an open service. Raises `Unfinished`, `psycopg.Error`,
    `RedisError`, `NoTopology`, `ShardUnavailable`."""
    user, position = removal.user, removal.position
    if not applied([liker_key(user)], APPLIED_SECONDS):  # also what a replay has written again since the request
        raise Unfinished("what was accepted before it is not applied yet")
    _save(removal, state=Removal.State.RUNNING, total=removal.done + _count(user, position), detail="")
    while page := _page(user, position):
        if stopping():
            raise Unfinished("its process is ending")
        _unlike([pair for pair, liked in page if liked], position)
        pairs = [pair for pair, _ in page]
        recent.forget(pairs)
        if not (deleted := _delete(pairs, position)):
            raise Unfinished("its writes were not taken, or changed nothing")
        _save(removal, done=removal.done + deleted)
    _forget_earlier(user, position)
    for shard in range(settings.TALLY.shard_count):
        _forget_events(shard, user, position)
    log.info("user_removed", removal=str(removal.id), likes=removal.done)
    _save(removal, state=Removal.State.DONE, user="", total=removal.done, ended_at=datetime.now(UTC))


def wait(removal: Removal, reason: str) -> None:
    """Note why a removal has to wait."""
    log.warning("removal_unfinished", removal=str(removal.id), reason=reason)
    _save(removal, detail=reason)


def _save(removal: Removal, **fields: object) -> None:
    for name, value in fields.items():
        setattr(removal, name, value)
    removal.save(update_fields=list(fields))


def _home(user: str) -> str:
    return databases.primary(topology.current().shard_of(liker_key(user)))


def _count(user: str, position: int) -> int:
    with databases.connection(_home(user), APPLIED_SECONDS) as conn:
        count: int = conn.execute(COUNT, (user, slot_of(liker_key(user)), position)).fetchall()[0][0]
        return count


def _page(user: str, position: int) -> list[tuple[Pair, bool]]:
    """Some of what the user's rows have from before, and whether it is liked."""
    with databases.connection(_home(user)) as conn:
        rows = conn.execute(PAGE, (user, slot_of(liker_key(user)), position, _AT_A_TIME)).fetchall()
    return [(Pair(item, user), liked) for item, liked in rows]


def _unlike(pairs: Sequence[Pair], position: int) -> None:
    """Write unlikes and wait until they, and all before them, are applied on both sides."""
    if pairs:
        events = [Event(pair.item, pair.user, liked=False, at=position) for pair in pairs]
        try:
            service.current().submit(writes.write(events, least=0))
        except (Limited, JournalUnavailable) as error:
            raise Unfinished(str(error)) from error


def _delete(pairs: Sequence[Pair], position: int) -> int:
    """Delete the rows of unlikes from before on both sides. Returns how many the user had."""
    if not applied({side.key_of(pair) for side in (LIKERS, LIKED) for pair in pairs}, APPLIED_SECONDS):
        raise Unfinished("its unlikes are not applied yet")
    deleted = 0
    for side in (LIKERS, LIKED):  # the user's last: they say what is left to do
        deleted = sum(
            conn.execute(side.query(DELETE), (*columns, position)).rowcount for conn, columns in _locked(side, pairs)
        )
    return deleted


def _forget_earlier(user: str, position: int) -> None:
    """What the user likes since remembers what was before it (`state`): forget that, when no more of it can come."""
    item = ""
    while True:
        with databases.connection(_home(user)) as home:
            rows = home.execute(AFTERWARDS, (user, slot_of(liker_key(user)), position, item, _AT_A_TIME)).fetchall()
        if not rows:
            return
        pairs = [Pair(item, user) for (item,) in rows]
        if not applied({LIKERS.key_of(pair) for pair in pairs}, APPLIED_SECONDS):
            raise Unfinished("what was accepted before it is not applied yet")
        for side in (LIKERS, LIKED):
            for conn, columns in _locked(side, pairs):
                found = conn.execute(side.query(EARLIER), (position, *columns, position)).fetchall()
                for earlier, is_since, *key in found:
                    left = state.after(earlier, position) if earlier else None
                    conn.execute(side.query(SHORTEN), (left, is_since or False, *key))
        item = rows[-1][0]


def _locked(side: Side, pairs: Sequence[Pair]) -> Iterator[tuple[psycopg.Connection[Any], list[list[object]]]]:
    """For each lane a transaction that holds its lock, so that no shift has read what this changes, and the columns of its
    pairs and their slots."""
    by_lane: dict[Lane, list[tuple[object, ...]]] = {}
    keys = [side.key_of(pair) for pair in pairs]
    in_force = topology.current()
    for pair, slot in zip(pairs, slots_of(keys), strict=True):
        by_lane.setdefault(in_force.lanes[in_force.routes[slot]], []).append((*side.columns(pair), slot))
    for lane, rows in sorted(by_lane.items()):
        with databases.connection(databases.primary(lane.shard), APPLIED_SECONDS) as pooled, pooled.transaction():
            pooled.execute(LOCK, (lanes.LOCK_ID, lane.number))
            yield pooled, [list(column) for column in zip(*rows, strict=True)]


def _forget_events(shard: int, user: str, position: int) -> None:
    """Delete the user's events from before. No index has the user: each day of the log is read once."""
    with databases.connect(databases.primary(shard), autocommit=True, timeout=_STATEMENT_SECONDS) as conn:
        for (day,) in conn.execute(DAYS).fetchall():
            conn.execute(FORGET.format(sql.Identifier(day)), (user, position))
