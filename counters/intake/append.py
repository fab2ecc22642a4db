"""Append: one flush goes into the journals of its lanes, all or none (`lua/append.lua`).

I1 lives here: `append` returns after Redis has answered, and Redis answers after its fsync.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any
from uuid import UUID

import psycopg
import structlog
from django.conf import settings
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout

from counters.intake import journal, lease
from counters.intake.journal import Journal, JournalUnavailable
from counters.intake.lease import Lease
from runtime import breakers, redis
from sharding import databases
from sharding.lanes import Lane

LAST_VERSIONS = "SELECT coalesce(max(last_version), 0) FROM apply_state"
log = structlog.get_logger(__name__)


class TokensTaken(Exception):
    """Some idempotency tokens of a flush are in use; `records` has what each of those stands for."""

    def __init__(self, records: dict[bytes, bytes]) -> None:
        super().__init__("idempotency tokens in use")
        self.records = records


class Moved(JournalUnavailable):
    """The batches were routed by a topology that is no longer in force; nothing was accepted."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A batch for one lane, encoded. `awaited`: somebody waits for a result, so the lane's shift shall not rest."""

    data: bytes
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class Appended:
    """A flush in the journal, and those of its lanes that need a task; the others have one already."""

    position: int
    unattended: list[Lane]


def append(id: UUID, payloads: Mapping[Lane, Payload], writes: int, tokens: dict[bytes, bytes], routed_by: int | None) -> Appended:
    """Write one flush: a payload for each lane, under one id. Returns once it is on the disk.

    `routed_by` is the version of the topology that named the lanes; None for what a worker forwards, which is never refused for that.
    Raises `TokensTaken` and `Moved` (nothing was written), or `JournalUnavailable`: then it may or may not have been written.
    """
    keys: list[str | bytes] = [journal.CLOCK, journal.TOPOLOGY, journal.CLOSED]
    args: list[object] = [id.bytes, writes, len(payloads), "" if routed_by is None else routed_by, lease.duration()]
    for lane, payload in payloads.items():
        keys += _append_keys(lane)
        args += [payload.data, int(payload.awaited)]
    keys += map(journal.token_key, tokens)
    args += [settings.TALLY.retention_days * 86400, *tokens.values()]
    reply = _run_append(keys, args)
    if reply[0] == b"unset":
        _set_clock()
        reply = _run_append(keys, args)
    match reply[0]:
        case b"appended":
            return Appended(int(reply[1]), [lane for lane, send in zip(payloads, reply[2:], strict=True) if send])
        case b"taken":
            raise TokensTaken({token: record for token, record in zip(tokens, reply[1:], strict=True) if record is not None})
        case b"moved":
            raise Moved("the lanes of the shards have changed; this write was not taken")
        case b"closed":
            raise JournalUnavailable("the number of lanes is being changed; this write was not taken")
    raise JournalUnavailable("the journal's clock could not be set")


@cache
def _append_keys(lane: Lane) -> tuple[str, ...]:
    its_journal, its_lease = Journal(lane), Lease(lane)
    return its_journal.positions_key, its_journal.batches_key, its_lease.key, its_lease.wake_channel


def _run_append(keys: list[str | bytes], args: list[object]) -> Any:
    try:
        return breakers.journal.call(partial(_append_twice, keys, args))
    except RedisError as error:
        raise JournalUnavailable(f"the journal did not answer: {error}") from error


def _append_twice(keys: list[str | bytes], args: list[object]) -> Any:
    """A connection may have died while nobody used it: that alone is no reason to refuse writes."""
    try:
        return journal.registered("append")(keys, args)
    except RedisTimeout:
        raise
    except RedisConnectionError as error:
        log.warning("journal_append_repeated", error=str(error))
        return journal.registered("append")(keys, args)


def _set_clock() -> None:
    """Start the clock of an empty Redis behind every version in use: needs every shard's primary."""
    last = 0
    for shard in range(settings.TALLY.shard_count):
        try:
            with databases.connection(databases.primary(shard)) as conn:
                last = max(last, *conn.execute(LAST_VERSIONS).fetchall()[0])
        except psycopg.Error as error:
            raise JournalUnavailable(f"the journal is empty, and shard {shard} cannot tell its last version: {error}") from error
    try:
        redis.journal().set(journal.CLOCK, last, nx=True)
    except RedisError as error:
        raise JournalUnavailable(f"the journal did not answer: {error}") from error
    log.warning("journal_clock_set", last_version=last)
