"""The Celery tasks. One applies a lane, the others do maintenance. The journal and the shards say what is to be done
(I4).

A task is acknowledged when it starts. If its worker dies, the lane waits until its lease expires, then is applied
again.
"""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import psycopg
import structlog
from celery import current_task, shared_task
from celery.signals import celeryd_after_setup, heartbeat_sent, worker_process_init, worker_shutting_down
from celery.worker import state
from django.conf import settings
from redis.exceptions import LockNotOwnedError

from counters.apply import dead_letters, partitions, relay
from counters.apply.worker import Worker
from counters.intake import dispatch
from runtime import garbage, redis
from runtime.resources import owned
from sharding.lanes import FRESH, MOST, Lane, Queue

log = structlog.get_logger(__name__)


class _Setup:
    """The worker that this process is, once Celery has set it up."""

    worker: Worker | None = None

    def close(self) -> None:
        if self.worker:
            self.worker.close()


@owned(close=_Setup.close)
def _setup() -> _Setup:
    return _Setup()


class _Asked(msgspec.Struct):
    """The arguments of a message. A queue may hold anything; what does not fit becomes a dead letter."""

    shard: Annotated[int, msgspec.Meta(ge=0)]
    lane: Annotated[int, msgspec.Meta(ge=0, lt=MOST)]
    queue: Queue = FRESH


@shared_task(name=dispatch.TASK, ignore_result=True)
def apply(shard: int, lane: int, queue: str = FRESH) -> dict[str, int | str]:
    """Apply a queue of a shard's lane until its journal is empty or the shift is over. Returns the `Report`."""
    asked = msgspec.convert({"shard": shard, "lane": lane, "queue": queue}, _Asked)
    named = Lane(asked.shard, asked.lane, asked.queue)
    worker = _setup().worker
    if worker is None or not worker.takes(named):
        raise ValueError(f"this worker does not apply lane {named}")
    with structlog.contextvars.bound_contextvars(task=current_task.request.id):
        report = worker.apply(named)
    _end_if_too_large()
    return report.as_dict()


def _end_if_too_large() -> None:
    """Shut the worker down warmly if it has used too much memory; its supervisor starts another."""
    most, used = settings.TALLY.worker_memory_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    used *= 1 if sys.platform == "darwin" else 1024
    if most and used > most and state.should_stop is None:
        log.warning("worker_too_large", bytes=used, limit=most)
        state.should_stop = 0  # type: ignore[assignment]


@shared_task(name="counters.relay", ignore_result=True, send_events=False)  # one every two seconds, for ever
def relay_overdue() -> None:
    """Dispatch overdue lanes again. One process at a time: a second one returns at once."""
    lock = redis.journal().lock("journal:relay", timeout=30, blocking=False)
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
    """Create and drop time partitions on every reachable shard; `tally_partitions_maintained_at_seconds` shows the
    others."""
    for shard in range(settings.TALLY.shard_count):
        try:
            log.info("partitions_maintained", shard=shard, dropped=partitions.maintain(shard))
        except psycopg.Error as error:
            log.warning("partitions_unmaintained", shard=shard, error=str(error).strip())


__all__ = [
    "apply",
    "dead_letters",
    "maintain_partitions",
    "relay_overdue",
]  # importing dead_letters connects its signals


@celeryd_after_setup.connect
def set_up(sender: str, instance: Any, **_: Any) -> None:
    """Start the worker. It takes over its shards' journals even without the broker: messages may have died with its
    predecessor.

    A child of Celery's prefork pool has a worker of its own, without a watch: it may not use its parent's connections.
    """
    consumed = instance.app.amqp.queues.consume_from
    shards = [shard for shard in range(settings.TALLY.shard_count) if dispatch.queue_of(shard) in consumed]

    def make(**_: Any) -> Worker:
        spills = dispatch.SPILL_QUEUE in consumed
        _setup().worker = worker = Worker(sender, shards, list(consumed), spills=spills)
        return worker

    make().open()
    worker_process_init.connect(make, weak=False, dispatch_uid="make_worker")
    garbage.begin()


@heartbeat_sent.connect
def note_heartbeat(**_: Any) -> None:
    """Celery's consumer sends heartbeats only while it is connected to the broker."""
    if worker := _setup().worker:
        worker.consumes()


@worker_shutting_down.connect
def finish(**_: Any) -> None:
    """Stop the worker: it commits its current transactions, its tasks return, and other workers take the rest."""
    if worker := _setup().worker:
        worker.stop()
