"""Set-aside batches: they cannot be decoded or applied, and are kept until an operator decides (I7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from uuid import UUID

import msgspec

from counters.intake.journal import Entry, Journal, lanes_with, registered
from runtime import redis
from sharding.lanes import Lane


class SetAside(msgspec.Struct, array_like=True, frozen=True):
    """A set-aside batch: its position in the journal, the reason, and its bytes."""

    position: int
    reason: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """A set-aside batch without its bytes; `size` is in bytes."""

    id: UUID
    position: int
    reason: str
    size: int


_decoder = msgspec.msgpack.Decoder(SetAside)


@dataclass(frozen=True)
class SetAsideBatches:
    """One lane's set-aside batches. Holds no connection and costs nothing to create. Its methods raise `RedisError`."""

    lane: Lane

    @cached_property
    def key(self) -> str:
        """Hash: batches by id. (The name `poison` predates the term.)"""
        return f"journal:{self.lane}:poison"

    def add(self, entry: Entry, reason: str) -> None:
        """Move a batch out of the journal, with the reason."""
        journal = Journal(self.lane)
        data = journal.payloads([entry.id])[0]
        with redis.journal().pipeline(transaction=True) as pipe:
            if data is not None:
                kept = SetAside(entry.position, reason, data)
                pipe.hset(self.key, entry.id.bytes, msgspec.msgpack.encode(kept))
            journal.remove_in(pipe, [entry.id.bytes])
            pipe.execute()

    def all(self) -> dict[UUID, SetAside]:
        """All batches with their bytes, by id."""
        return {UUID(bytes=id): _decoder.decode(data) for id, data in redis.journal().hgetall(self.key).items()}

    def count(self) -> int:
        """Number of batches."""
        return int(redis.journal().hlen(self.key))

    def ids(self) -> list[UUID]:
        """Ids of all batches, newest first (ids of forwarded batches contain no time)."""
        return sorted((UUID(bytes=id) for id in redis.journal().hkeys(self.key)), reverse=True)

    def heads(self, ids: Sequence[UUID]) -> list[Head]:
        """Batches without their bytes; missing ones are left out."""
        found = registered("set_aside")([self.key], [id.bytes for id in ids]) if ids else []
        there = [(id, head) for id, head in zip(ids, found, strict=True) if head]
        return [Head(id, int(head[0]), head[1].decode(errors="replace"), int(head[2])) for id, head in there]

    def retry(self, id: UUID) -> int | None:
        """Put a batch back in its place in the journal. Returns its position, or None if it is not set aside.

        The batch is applied as a late one: increments that a set has since voided stay void.
        """
        found = redis.journal().hget(self.key, id.bytes)
        if found is None:
            return None
        kept, journal = _decoder.decode(found), Journal(self.lane)
        with redis.journal().pipeline(transaction=True) as pipe:
            pipe.zadd(journal.positions_key, {id.bytes: kept.position}, nx=True)
            pipe.hset(journal.batches_key, id.bytes, kept.data)
            pipe.hdel(self.key, id.bytes)
            pipe.execute()
        return kept.position

    def discard(self, id: UUID) -> bool:
        """Delete a batch. Returns whether it existed."""
        return bool(redis.journal().hdel(self.key, id.bytes))


def lanes_with_set_aside(shard: int) -> list[Lane]:
    """The lanes of a shard with set-aside batches, including lanes no longer in force. Raises `RedisError`."""
    return lanes_with(shard, lambda lane: SetAsideBatches(lane).key)
