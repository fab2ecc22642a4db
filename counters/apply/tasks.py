"""The Celery tasks. They wake the applier or keep house; what there is to do, the journal and the shards say (I4).

A task returns when its batch is committed, so Celery's own picture (Flower, events) is true. It is acknowledged when it starts: a
message lost with its worker costs nothing, as the worker that starts next takes the whole journal.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any
from uuid import UUID

import msgspec
import psycopg
import structlog
from celery import shared_task
from celery.exceptions import Ignore
from celery.signals import celeryd_after_setup, worker_shutdown, worker_shutting_down
from django.conf import settings
from redis.exceptions import LockNotOwnedError

from counters.apply import dead_letters, partitions, relay
from counters.apply.applier import Stopped, applier, stop, wait_until_stopped
from counters.intake import dispatch, journal

STOP_SECONDS = 15.0  # for the transaction in hand when the worker is told to end
log = structlog.get_logger(__name__)


class _Asked(msgspec.Struct):
    """What a message must say; anything may stand in a queue, and what does not fit becomes a dead letter here, at the door."""

    shard: Annotated[int, msgspec.Meta(ge=0)]
    batch: UUID
    position: Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
    again: bool


@shared_task(name=dispatch.TASK, ignore_result=True)
def apply_batch(shard: int, batch: str, position: int, again: bool = False) -> None:
    """Apply the journal of a shard at least up to this batch; return when it is committed. `again`: see `relay`."""
    asked = msgspec.convert({"shard": shard, "batch": batch, "position": position, "again": again}, _Asked)
    if asked.shard >= settings.TALLY.shard_count:
        raise ValueError(f"there is no shard {shard}: TALLY_SHARDS has {settings.TALLY.shard_count}")
    try:
        applier(asked.shard).apply_up_to(asked.position, asked.batch if asked.again else None)
    except Stopped as error:
        raise Ignore from error


@shared_task(name="counters.relay", ignore_result=True)
def relay_overdue() -> None:
    """Dispatch again what is overdue. One process at a time: a second one leaves it to the first."""
    lock = journal.client().lock("journal:relay", timeout=30, blocking=False)
    if not lock.acquire():
        return
    with suppress(LockNotOwnedError):
        _relay_all()
        lock.release()


def _relay_all() -> None:
    for shard in range(settings.TALLY.shard_count):
        relay.relay(shard)


@shared_task(name="counters.maintain_partitions", ignore_result=True)
def maintain_partitions() -> None:
    """Make and drop time partitions on every shard that can be reached; `tally_partitions_maintained_at_seconds` tells of the others."""
    for shard in range(settings.TALLY.shard_count):
        try:
            log.info("partitions_maintained", shard=shard, dropped=partitions.maintain(shard))
        except psycopg.Error as error:
            log.warning("partitions_unmaintained", shard=shard, error=str(error).strip())


__all__ = ["apply_batch", "dead_letters", "maintain_partitions", "relay_overdue"]  # importing dead_letters connects its signals


@celeryd_after_setup.connect
def take_what_is_left(instance: Any, **_: Any) -> None:
    """A worker that starts takes what the journal holds for its shards, broker or not: messages may have died with its predecessor."""
    for shard in range(settings.TALLY.shard_count):
        if dispatch.queue_of(shard) in instance.app.amqp.queues.consume_from:
            applier(shard).wake()


@worker_shutting_down.connect
def finish(**_: Any) -> None:
    """A worker that is told to end commits the transaction in hand; its other tasks return at once."""
    stop()


@worker_shutdown.connect
def wait_for_the_end(**_: Any) -> None:
    """Not while a transaction is open."""
    stop()
    if not wait_until_stopped(STOP_SECONDS):
        log.warning("apply_unfinished")
