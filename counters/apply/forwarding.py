"""Forwarding: operations on slots that another shard owns go into that shard's journal.

I6 lives here. The forwarded batch has an id made from the old one and the shard it goes to, so that forwarding the same batch twice
appends, or at least applies, it once. It is in the other journal before this shard's transaction commits.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid5

import msgspec
import structlog
from prometheus_client import Counter

from counters.apply.plan import Placed
from counters.intake import batch, dispatch, journal
from counters.intake.batch import Batch, Increments, Operation
from sharding.topology import Topology

FORWARDED = Counter("tally_batches_forwarded_total", "Batches with operations that another shard owns", ["shard", "to"])
log = structlog.get_logger(__name__)


def keys_of(one: Batch) -> Iterator[str]:
    """Every key that a batch touches; a key may come more than once."""
    for _, operation in one.segments:
        if isinstance(operation, Increments):
            yield from operation.keys
        else:
            yield operation.key


def split(one: Batch, topology: Topology) -> dict[int, list[tuple[int, Operation]]]:
    """Segments of a batch by the shard that owns their keys."""
    parts: dict[int, list[tuple[int, Operation]]] = {}
    for index, operation in one.segments:
        if not isinstance(operation, Increments):
            parts.setdefault(topology.shard_of(operation.key), []).append((index, operation))
            continue
        deltas = dict(zip(operation.keys, operation.deltas, strict=True))
        for shard, keys in topology.by_shard(operation.keys).items():
            parts.setdefault(shard, []).append((index, Increments(keys, [deltas[key] for key in keys])))
    return parts


def forward(shard: int, window: list[Placed], topology: Topology, foreign: set[str]) -> tuple[list[Placed], list[tuple[UUID, int, UUID]]]:
    """What this shard owns of each batch, and (id, shard, id there) for what was sent on. Raises `JournalUnavailable`.

    `foreign` are the keys of this window that another shard owns.
    """
    kept, sent = [], []
    for placed in window:
        one = placed.batch
        if foreign.isdisjoint(keys_of(one)):
            kept.append(placed)
            continue
        parts = split(one, topology)
        kept.append(Placed(placed.position, msgspec.structs.replace(one, segments=parts.pop(shard, []))))
        for owner, segments in parts.items():
            forwarded_id = uuid5(one.uuid, f"shard-{owner}")
            encoded = [(index, batch.encode_segment(operation)) for index, operation in segments]
            payload = batch.encode(forwarded_id, encoded, [], one.reply_to)
            appended = journal.append(forwarded_id, {owner: payload}, 1 + max(index for index, _ in segments), {})
            dispatch.send_soon(owner, forwarded_id, appended.position)
            FORWARDED.labels(shard, owner).inc()
            log.warning("batch_forwarded", shard=shard, to=owner, batch=one.uuid.hex, forwarded=forwarded_id.hex)
            sent.append((one.uuid, owner, forwarded_id))
    return kept, sent
