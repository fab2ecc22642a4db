"""Dispatch: the Celery task that tells a shard's worker that a batch is in the journal.

It is sent after the answer is certain and may be lost (I4): a broker that is away costs a log line, a metric and the time until the relay.
The message names the batch and does not carry it: the journal has its bytes already, and the worker reads them there in order, all up to
this one. So of batches that wait to be sent, the newest of each shard speaks for the others.
"""

from __future__ import annotations

from functools import cache
from uuid import UUID

import structlog
from celery import current_app
from kombu.exceptions import OperationalError
from prometheus_client import Counter

from counters.intake.group_commit import GroupCommit

TASK = "counters.apply_batch"
DISPATCHED = Counter("tally_batches_dispatched_total", "Celery tasks sent", ["shard"])
UNDISPATCHED = Counter("tally_batches_undispatched_total", "Celery tasks that the broker did not take; the relay sends them", ["shard"])
log = structlog.get_logger(__name__)


def queue_of(shard: int) -> str:
    """Name of a shard's queue."""
    return f"shard-{shard}"


def send(shard: int, batch: UUID, position: int, *, again: bool = False) -> bool:
    """Send one task now; whether the broker took it. `again`: the worker may have passed its position, and shall look once more."""
    options = {"again": True} if again else {}  # a worker of an older version knows only what is always sent
    try:
        current_app.send_task(TASK, (shard, batch.hex, position), options, queue=queue_of(shard), ignore_result=True, retry=False)
    except (OperationalError, OSError) as error:
        UNDISPATCHED.labels(shard).inc()
        log.warning("batch_undispatched", shard=shard, batch=batch.hex, error=str(error))
        return False
    DISPATCHED.labels(shard).inc()
    return True


def _send_newest(batches: list[tuple[int, UUID, int]]) -> None:
    newest = {batch[0]: batch for batch in batches}  # positions rise
    for batch in newest.values():
        send(*batch)


@cache
def _sender() -> GroupCommit[tuple[int, UUID, int]]:
    return GroupCommit(_send_newest, name="dispatch", most=1024)


def send_soon(shard: int, batch: UUID, position: int) -> None:
    """Send it from the dispatch thread: a slow broker must not hold up the next flush."""
    _sender().put((shard, batch, position))
