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

import psycopg
from django.conf import settings

from counters.intake.journal import JournalUnavailable
from counters.intake.writes import Write
from replication import copies
from runtime.disks import Room
from sharding import nodes
from sharding.databases import ShardUnavailable


class NoRoom(JournalUnavailable):
    """A disk is nearly full. The write was not taken. `shard` is None if it is the journal's."""

    def __init__(self, shard: int | None) -> None:
        whose = "the journal" if shard is None else f"the primary of shard {shard}"
        super().__init__(f"the disk of {whose} is nearly full; this write was not taken")
        self.shard = shard


class Guard:
    """Which shards take no writes now, by the last readings that it was told (`learn`)."""

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

    async def learn(self, rooms: Mapping[str, Room]) -> None:
        """Take up the readings of the disks, by server. Where one is short, PostgreSQL is asked who the primaries are."""
        short = {server for server, room in rooms.items() if room.short}
        if not short or not settings.TALLY.disk_reserve_bytes:
            self.refusals = {}
        else:
            self.refusals = await asyncio.to_thread(_refusals, short, self.refusals)


def _refusals(short: set[str], before: Mapping[int, NoRoom]) -> dict[int, NoRoom]:
    """The shards that take no writes, and why. `short`: servers with too little room. `before`: of the last readings, for
    shards without a primary that answers."""
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
