"""Idempotency keys: the same key with the same request is counted once and gets the same answer, for seven days.

A token (caller and key, hashed) has a record: the request's fingerprint and the write it became. The record is written
with the batch, by the same script, so it exists exactly if the write does. It travels in the batch of the token's home
shard, is stored there in the transaction that applies it, and leaves Redis an hour after that; whoever asks looks in
the shard first, then (in `append`) in Redis. Method: draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

from counters.write_id import WriteId
from sharding import breakers, databases, topology

FIND = "SELECT record FROM idempotency WHERE token = %s ORDER BY applied_at LIMIT 1"  # at most 9 partitions, one index probe each
MAX_KEY_LENGTH = 255
_FINGERPRINT_BYTES = 16


class Mismatch(Exception):
    """The key was used before, with another request."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A request's wish to be counted once: its token, and the fingerprint of what it asks."""

    token: bytes
    fingerprint: bytes

    @property
    def home_shard(self) -> int:
        """The shard that keeps the record: the token has a slot like a key has."""
        return topology.current().shard_of(self.token.hex())

    def record(self, write: WriteId) -> bytes:
        """What is kept for repeats."""
        return self.fingerprint + str(write).encode()

    def resolve(self, record: bytes) -> WriteId:
        """The write that a repeat of this request means. Raises `Mismatch`."""
        if record[:_FINGERPRINT_BYTES] != self.fingerprint:
            raise Mismatch("this Idempotency-Key was used before with another request")
        return WriteId.parse(record[_FINGERPRINT_BYTES:].decode())

    def find(self) -> WriteId | None:
        """The write of an earlier request, if its shard has the record. Raises `Mismatch`, `ShardUnavailable`."""
        shard = self.home_shard
        aliases = [alias for alias in (databases.replica(shard), databases.primary(shard)) if alias]
        for alias in aliases:
            try:
                row = breakers.call(alias, partial(self._query, alias))
            except databases.ShardUnavailable:
                if alias == aliases[-1]:
                    raise
            else:
                return self.resolve(bytes(row[0])) if row else None
        return None

    def _query(self, alias: str) -> tuple[bytes] | None:
        with databases.connection(alias) as conn:
            return conn.execute(FIND, (self.token,)).fetchone()


def claim(caller: str, key: str, method: str, path: str, body: bytes, condition: str = "") -> Claim:  # noqa: PLR0913, PLR0917
    """The claim of a request. `caller` keeps the keys of different clients apart; `condition` is its If-Match."""
    token = blake2b(f"{caller}\0{key}".encode(), digest_size=16).digest()
    request = "\0".join((method, path, condition, "")).encode() + body
    return Claim(token, blake2b(request, digest_size=_FINGERPRINT_BYTES).digest())
