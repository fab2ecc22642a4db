"""Append one flush to the journals of its lanes, all or none (`lua/append.lua`).

I1 lives here: `append` returns after Redis has answered, and Redis answers after its fsync. If the journal has replicas,
`append` returns after they have confirmed that they have the write on disk as well. There are two variants: `append` for
threads, `Appender` for an event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import psycopg
import structlog
from django.conf import settings
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from counters.intake import journal, lease
from counters.intake.admission import NONE, Limits, Seen
from counters.intake.journal import Journal, JournalUnavailable, TooFewCopies
from counters.intake.lease import Lease
from runtime import breakers, redis
from runtime.redis import LoopConnection
from sharding import databases
from sharding.lanes import EXCESS, Lane

LAST_VERSIONS = "SELECT coalesce(max(greatest(last_version, spilled_version)), 0) FROM apply_state"
T = TypeVar("T")

log = structlog.get_logger(__name__)


class TokensTaken(Exception):
    """Some idempotency tokens of a flush are in use; `records` maps each of them to its record."""

    def __init__(self, records: dict[bytes, bytes]) -> None:
        super().__init__("idempotency tokens in use")
        self.records = records


class Moved(JournalUnavailable):
    """The batches were routed by a topology that is no longer in force; nothing was accepted."""


class Over(Exception):
    """A flush would exceed a limit; nothing was appended. `seen` is what the limits were compared with."""

    def __init__(self, seen: Seen) -> None:
        super().__init__("a limit would be exceeded")
        self.seen = seen


@dataclass(frozen=True, slots=True)
class Payload:
    """An encoded batch for one lane, and how many increments it has for the lane's backlog. `awaited`: a client waits for
    a result, so the lane's shift must not rest."""

    data: bytes
    awaited: bool = False
    increments: int = 0


@dataclass(frozen=True, slots=True)
class Appended:
    """A flush in the journal. `unattended`: its lanes that need a task; the others already have one."""

    position: int
    unattended: list[Lane]


class Flush:
    """One payload per lane, under one id, as `lua/append.lua` takes them.

    `routed_by` is the version of the topology that chose the lanes. None marks a batch that a worker forwards, which is
    never refused. `counted`: increments of keys that count for their rate. `limits`: none by default.
    """

    def __init__(  # noqa: PLR0913, PLR0917
        self,
        id: UUID,
        payloads: Mapping[Lane, Payload],
        writes: int,
        tokens: dict[bytes, bytes],
        routed_by: int | None,
        counted: Mapping[str, int] = {},
        limits: Limits = NONE,
    ) -> None:
        self._lanes, self._tokens, self._counted = list(payloads), list(tokens), list(counted)
        self.keys: list[str | bytes] = [
            journal.CLOCK,
            journal.TOPOLOGY,
            journal.CLOSED,
            journal.HISTORY,
            journal.ONE_COPY,
            *journal.rates_keys(limits.window),
        ]
        self.args: list[Any] = [
            id.bytes,
            writes,
            len(payloads),
            "" if routed_by is None else routed_by,
            lease.duration(),
            settings.TALLY.journal_replicas,
            settings.TALLY.retention_days * 86400,
            *limits.arguments,
            len(counted),
        ]
        for lane, payload in payloads.items():
            self.keys += _append_keys(lane)
            self.args += [payload.data, payload.increments, lane.queue, lane.number, int(payload.awaited)]
        self.keys += map(journal.token_key, tokens)
        self.args += tokens.values()
        for pair in counted.items():
            self.args += pair

    def appended(self, reply: Any, confirmation: Sequence[Any] = ()) -> Appended:
        """Parse the script's reply, and the replies to `redis.confirmation`, if that was sent. Raises `TokensTaken`,
        `Over` and `Moved` (nothing was written), `TooFewCopies`, `JournalUnavailable`."""
        if reply[0] in (b"appended", b"taken") and reply[1] and not redis.is_confirmed(confirmation):
            raise TooFewCopies("too few replicas of the journal have the write on disk; it may be counted all the same")
        match reply[0]:
            case b"appended":
                return Appended(
                    int(reply[2]), [lane for lane, send in zip(self._lanes, reply[3:], strict=True) if send]
                )
            case b"taken":
                records = zip(self._tokens, reply[2:], strict=True)
                raise TokensTaken({token: record for token, record in records if record is not None})
            case b"over":
                raise Over(self._seen(reply[1:]))
            case b"uncovered":
                raise TooFewCopies("the journal has too few replicas now; this write was not taken")
            case b"moved":
                raise Moved("the lanes of the shards have changed; this write was not taken")
            case b"closed":
                raise JournalUnavailable("the number of lanes is being changed; this write was not taken")
        raise JournalUnavailable("the journal's clock could not be set")

    def _seen(self, found: Sequence[int]) -> Seen:
        count = 2 * len(self._lanes)
        full = zip(self._lanes, found[:count:2], strict=True)
        return Seen(
            used=dict(zip(self._counted, found[count:], strict=True)),
            full={lane for lane, is_full in full if is_full},
            excess={lane.shard: held for lane, held in zip(self._lanes, found[1:count:2], strict=True)},
        )


@cache
def _append_keys(lane: Lane) -> tuple[str, ...]:
    own, its_lease = Journal(lane), Lease(lane)
    excess = Journal(lane.of(EXCESS)).backlog_key
    own_keys = own.positions_key, own.batches_key, own.increments_key, own.backlog_key
    return *own_keys, excess, its_lease.key, its_lease.wake_channel


def append(flush: Flush) -> Appended:
    """Append a flush, from a thread. Returns once it is on disk.

    Raises as `Flush.appended`. After `JournalUnavailable` the flush may or may not have been written.
    """
    reply, *confirmation = _run(flush)
    if _is_unset(reply):
        _set_clock()
        reply, *confirmation = _run(flush)
    return flush.appended(reply, confirmation)


def _run(flush: Flush) -> list[Any]:
    with _as_unavailable():
        return breakers.journal().call(partial(_twice, partial(_evaluated, flush)))


def _evaluated(flush: Flush) -> list[Any]:
    """The replies to the script and to the confirmation, which must go the same connection."""
    with redis.journal().pipeline(transaction=False) as pipe:
        journal.registered("append")(flush.keys, flush.args, client=pipe)
        for command in redis.confirmation():
            pipe.execute_command(*command)
        replies: list[Any] = pipe.execute()
    return replies


def _twice(run: Callable[[], T]) -> T:
    """Run again after a connection error, but not after a time-out: an idle connection may have died."""
    try:
        return run()
    except RedisTimeout:
        raise
    except RedisConnectionError as error:
        log.warning("journal_append_repeated", error=str(error))
        return run()


class Appender:
    """`append` on an event loop, through a connection that the caller closes."""

    def __init__(self, journal_connection: LoopConnection) -> None:
        self._connection = journal_connection
        self._script = redis.script(Path(__file__).parent, "append")

        self._confirms = True  # the last write had to be confirmed; with one copy alone, asking would take seconds

    async def append(self, flush: Flush) -> Appended:
        """Like the function `append`."""
        reply, *confirmation = await self._run(flush)
        if _is_unset(reply):
            await asyncio.to_thread(_set_clock)
            reply, *confirmation = await self._run(flush)
        try:
            return flush.appended(reply, confirmation)
        except TooFewCopies:
            await self._connection.close()  # its server may be the primary no more: the Sentinels know
            raise

    async def _run(self, flush: Flush) -> list[Any]:
        with _as_unavailable(), breakers.journal().calling():
            replies = await self._evaluated(flush)
            if not self._confirms and _must_be_confirmed(replies[0]):
                self._confirms = True
                replies = await self._evaluated(flush)  # from the start: another connection cannot confirm it
            self._confirms = replies[0][0] not in _WRITTEN or _must_be_confirmed(replies[0])
            return replies

    async def _evaluated(self, flush: Flush) -> list[Any]:
        confirmation = redis.confirmation() if self._confirms else []
        return await self._connection.evaluate_then(self._script, flush.keys, flush.args, confirmation)


_WRITTEN = (b"appended", b"taken")


def _must_be_confirmed(reply: Any) -> bool:
    return reply[0] in _WRITTEN and bool(reply[1])


@contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise JournalUnavailable(f"the journal did not answer: {error}") from error


def _is_unset(reply: Any) -> bool:
    return bool(reply[0] == b"unset")


def _set_clock() -> None:
    """Set the clock of an empty Redis, or of one that has become the primary, to the newest version in use.

    An empty Redis needs every shard's primary. One that was promoted has a clock past all that was acknowledged, so it
    does not wait for a shard that is down.
    """
    with _as_unavailable():
        is_empty = not redis.journal().exists(journal.CLOCK)
    last = 0
    for shard in range(settings.TALLY.shard_count):
        try:
            last = max(last, newest_version(shard))
        except psycopg.Error as error:
            if is_empty:
                raise JournalUnavailable(
                    f"the journal is empty, and shard {shard} cannot tell its last version: {error}"
                ) from error
            log.warning("journal_clock_unchecked", shard=shard, error=str(error).strip())
    with _as_unavailable():
        journal.set_clock(last)
    log.warning("journal_clock_set", last_version=last)


def newest_version(shard: int) -> int:
    """The newest version that a shard's primary has. Raises `psycopg.Error`."""
    with databases.connection(databases.primary(shard)) as conn:
        return int(conn.execute(LAST_VERSIONS).fetchall()[0][0])
