"""`?after=WRITE_ID`: a read that includes a write, and thus everything that the same client did before it.

A server has a write if its ledger has it in each of the write's lanes: ledger and counters commit together (I2) and are
replayed together. So each server can check itself, on the connection used for the read: first the ledger, then, in a
newer snapshot, the counters. The cache is skipped, since an entry does not say which writes it includes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psycopg

from counters.intake.journal import JournalUnavailable
from counters.reading import reads, write_status
from counters.reading.reads import Consistency, Counter, Rows
from counters.reading.write_status import Status
from counters.write_id import WriteId
from runtime import polling
from sharding import topology
from sharding.databases import ShardUnavailable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25  # seconds


class UnknownWrite(Exception):
    """No shard and no journal knows this write."""


def get_many(
    keys: Sequence[str], write: WriteId, seconds: float, consistency: Consistency = "eventual"
) -> list[Counter] | None:
    """Counters with the write applied, in the order of `keys`, or None if it was not applied within `seconds`.

    Raises `UnknownWrite`, `ShardUnavailable`, `JournalUnavailable`.
    """
    for _ in polling.attempts(seconds, pause=_FIRST_PAUSE, grow=2, most=_LONGEST_PAUSE):
        if (found := _look(keys, write, consistency)) is not None:
            return found
    return None


def _look(keys: Sequence[str], write: WriteId, consistency: Consistency) -> list[Counter] | None:
    """The counters, or None unless some server of each shard has the write."""
    found: dict[str, Counter] = {}
    for shard, wanted in topology.current().by_shard(keys).items():
        if shard in write.shards:
            counters = _read(shard, wanted, write, consistency)
        else:  # not a shard in the write's id (it may be forwarded there): its primary has what the status says
            counters = _read_primary(shard, wanted) if _status(write) in {"applied", "rejected"} else None
        if counters is None:
            _status(write)  # raises `UnknownWrite`, so no client waits for a write that never existed
            return None
        found |= {counter.key: counter for counter in counters}
    return [found[key] for key in keys]


def _status(write: WriteId) -> Status:
    with suppress(ShardUnavailable):  # while a primary is down, keep waiting
        found = write_status.find(write)
        if found is None:
            raise UnknownWrite
        return found.status
    return "queued"


def status(write: WriteId) -> Status:
    """What `get_many` waits for; "queued" if that cannot be told."""
    with suppress(UnknownWrite, JournalUnavailable):
        return _status(write)
    return "queued"


def _read(shard: int, keys: list[str], write: WriteId, consistency: Consistency) -> list[Counter] | None:
    lanes = [lane for lane in write.lanes if lane.shard == shard]

    def query(conn: psycopg.Connection[Any]) -> Rows | None:
        waiting, known = write_status.not_applied(conn, lanes, write.batch, write.index)
        return reads.rows_of(conn, keys) if known and not waiting else None

    for replicas in (True, False) if consistency == "eventual" else (False,):
        with suppress(ShardUnavailable):
            rows, source = reads.ask(shard, query, replicas=replicas)
            if rows is not None:
                return reads.counters(keys, rows, source, shard)
    return None


def _read_primary(shard: int, keys: list[str]) -> list[Counter]:
    rows, source = reads.ask(shard, lambda conn: reads.rows_of(conn, keys), replicas=False)
    return reads.counters(keys, rows, source, shard)
