"""Forwarding: append operations on another lane's slots to that lane's journal.

I6 lives here. The forwarded batch's id is derived from the original id and both lanes, so a batch that is forwarded
twice is applied once. It is in the other journal before this lane's transaction commits.
"""

from __future__ import annotations

from uuid import UUID, uuid5

import msgspec
import structlog
from prometheus_client import Counter

from counters import batch
from counters.apply import effects
from counters.apply.plan import Placed
from counters.batch import Batch, Operation
from counters.intake import dispatch
from counters.intake.append import Flush, Payload, append
from sharding.lanes import FRESH, Lane
from sharding.topology import Topology

FORWARDED = Counter(
    "tally_batches_forwarded_total", "Batches with operations that belong to another lane", ["shard", "to"]
)
log = structlog.get_logger(__name__)


def split(one: Batch, topology: Topology) -> dict[Lane, list[tuple[int, Operation]]]:
    """Segments of a batch by the lane of their keys."""
    parts: dict[Lane, list[tuple[int, Operation]]] = {}
    for index, operation in one.segments:
        for lane, keys in topology.by_lane(operation.keys).items():
            parts.setdefault(lane, []).append((index, operation.restricted_to(set(keys))))
    return parts


def forward(
    lane: Lane, window: list[Placed], topology: Topology, foreign: set[str]
) -> tuple[list[Placed], list[tuple[UUID, Lane, UUID]]]:
    """Forward other lanes' operations. Returns this lane's part of each batch, and (id, lane, id there) of each
    forwarded one. Raises `JournalUnavailable`.

    `foreign` are the keys of this window that belong to other lanes.
    """
    kept, sent = [], []
    for placed in window:
        one = placed.batch
        if foreign.isdisjoint(one.keys):
            kept.append(placed)
            continue
        parts = split(one, topology)
        kept.append(Placed(placed.position, msgspec.structs.replace(one, segments=parts.pop(lane.of(FRESH), []))))
        for to, segments in parts.items():
            forwarded_id = uuid5(one.uuid, f"{lane}-{to}")
            encoded = [
                (index, batch.encode_segment(effects.pinned(operation, placed.position + index)))
                for index, operation in segments
            ]
            data = batch.encode(forwarded_id, encoded, [], one.reply_to)
            increments = sum(len(operation.keys) for _, operation in segments)
            payload = Payload(data, one.reply_to is not None, increments)
            writes = 1 + max(index for index, _ in segments)
            appended = append(Flush(forwarded_id, {to: payload}, writes, {}, None))
            for unattended in appended.unattended:
                dispatch.send_soon(unattended)
            FORWARDED.labels(lane.shard, to.shard).inc()
            log.warning("batch_forwarded", lane=str(lane), to=str(to), batch=one.uuid.hex, forwarded=forwarded_id.hex)
            sent.append((one.uuid, to, forwarded_id))
    return kept, sent
