"""Writes that are refused because a disk is nearly full, while there is still room for what was accepted.

What has too little room is told by the processes beside the servers (`runtime.disks`). Refused are:

- if it is a server of the journal: all writes, as each server of the journal must have every write;
- if it is the primary of a shard: the writes to that shard, and those whose idempotency record belongs there.

A replica's disk refuses nothing: the shard goes on without it, and the journal keeps what only the primary has. Nobody
knows (`manage.py disks` does not run): nothing is refused.

Workers are not refused anything. They apply what was accepted, and forward batches (I6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress

import psycopg
from django.conf import settings
from redis.exceptions import RedisError

from counters.intake.journal import JournalUnavailable
from counters.intake.writes import Write
from replication import copies
from runtime import disks, redis
from sharding import nodes
from sharding.databases import ShardUnavailable

LOOK_SECONDS = 1.0


class NoRoom(JournalUnavailable):
    """A disk is nearly full. The write was not taken. `shard` is None if it is the journal's."""

    def __init__(self, shard: int | None) -> None:
        whose = "the journal" if shard is None else f"the primary of shard {shard}"
        super().__init__(f"the disk of {whose} is nearly full; this write was not taken")
        self.shard = shard


class Guard:
    """Which shards take no writes now. `keep` brings it up to date until it is cancelled."""

    def __init__(self) -> None:
        self.refusals: Mapping[int, NoRoom] = {}  # by shard

    def check(self, write: Write) -> None:
        """Raises `NoRoom`."""
        if not self.refusals:
            return
        shards = {lane.shard for lane in write.operations}
        if write.claim:
            shards.add(write.claim.home_shard)
        for shard in shards & self.refusals.keys():
            raise NoRoom(self.refusals[shard].shard)

    async def keep(self) -> None:
        while settings.TALLY.disk_reserve_bytes:
            with suppress(RedisError):  # no write is taken then
                self.refusals = await asyncio.to_thread(refusals, self.refusals)
            await asyncio.sleep(LOOK_SECONDS)


def refusals(before: Mapping[int, NoRoom]) -> dict[int, NoRoom]:
    """The shards that take no writes, and why. `before`: of the last look, for shards without a primary that answers.
    Raises `RedisError`."""
    with redis.journal().pipeline(transaction=False) as pipe:
        disks.ask(pipe)
        rooms = disks.rooms(*pipe.execute())
    short = {server for server, room in rooms.items() if room.short}
    shards = range(settings.TALLY.shard_count)
    servers = {shard: {node.address for node in nodes.of(shard)} for shard in shards}
    if short.difference(*servers.values()):
        return dict.fromkeys(shards, NoRoom(None))
    return {
        shard: NoRoom(shard) for shard in shards if (its := servers[shard] & short) and _is_primary(shard, its, before)
    }


def _is_primary(shard: int, short: set[str], before: Mapping[int, NoRoom]) -> bool:
    """Whether the primary is one of these servers."""
    try:
        primary = copies.ask_primary(shard)
    except (psycopg.Error, ShardUnavailable):
        return shard in before
    return f"{primary.host}:{primary.port}" in short
