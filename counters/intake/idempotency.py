"""Idempotency keys: for seven days, the same key with the same request is counted once and gets the same answer.

A token (hash of caller and key) has a record: the request's fingerprint, the id of its write and what limits took out of
it. One script writes the
record and the batch, so the record exists exactly if the write does. It travels in the batch to the token's home shard
and is stored there in the transaction that applies the batch. Redis drops it an hour after the batch has left the
journal. A look-up asks the shard first, then (in `append`) Redis. Method: draft-ietf-httpapi-idempotency-key-header.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import msgspec

from counters.intake.admission import NOTHING_SHED, Shed
from counters.write_id import WriteId
from sharding import breakers, databases, topology

# At most 9 partitions, in each an index probe a token.
FIND = "SELECT DISTINCT ON (token) token, record FROM idempotency WHERE token = ANY(%s) ORDER BY token, applied_at"
MAX_KEY_LENGTH = 255
_FINGERPRINT_BYTES = 16
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Shed)


class Mismatch(Exception):
    """The key was used before with a different request."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A request's claim to be counted once: its token, and the fingerprint of its contents."""

    token: bytes
    fingerprint: bytes

    @property
    def home_shard(self) -> int:
        """The shard that stores the record: a token has a slot, like a key."""
        return topology.current().shard_of(self.token.hex())

    def record(self, write: WriteId, shed: Shed = NOTHING_SHED) -> bytes:
        """The record that is stored for repeats."""
        lost = b" " + _encoder.encode(shed) if shed else b""
        return self.fingerprint + str(write).encode() + lost

    def resolve(self, record: bytes) -> tuple[WriteId, Shed]:
        """The write id in the record, and what the write lost. Raises `Mismatch` if the record is of a different
        request."""
        if record[:_FINGERPRINT_BYTES] != self.fingerprint:
            raise Mismatch("this Idempotency-Key was used before with another request")
        id, _, lost = record[_FINGERPRINT_BYTES:].partition(b" ")
        return WriteId.parse(id.decode()), _decoder.decode(lost) if lost else NOTHING_SHED


def claim(caller: str, key: str, method: str, path: str, body: bytes, condition: str = "") -> Claim:  # noqa: PLR0913, PLR0917
    """Return a request's claim. `caller` separates the keys of different clients; `condition` is its If-Match."""
    token = blake2b(f"{caller}\0{key}".encode(), digest_size=16).digest()
    request = "\0".join((method, path, condition, "")).encode() + body
    return Claim(token, blake2b(request, digest_size=_FINGERPRINT_BYTES).digest())


def records(shard: int, tokens: Sequence[bytes]) -> dict[bytes, bytes]:
    """The records that a shard has, by token: of a replica, or else of the primary. Raises `ShardUnavailable`."""
    replica, primary = databases.replica(shard), databases.primary(shard)
    if replica:
        with suppress(databases.ShardUnavailable):
            return breakers.call(replica, partial(_records, replica, tokens))
    return breakers.call(primary, partial(_records, primary, tokens))


def _records(alias: str, tokens: Sequence[bytes]) -> dict[bytes, bytes]:
    with databases.connection(alias) as conn:
        return {bytes(token): bytes(record) for token, record in conn.execute(FIND, (list(tokens),))}
