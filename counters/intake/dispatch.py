"""Dispatch: the Celery task that applies a lane.

A task is sent when something was appended to a lane that nobody applies and for which no task is under way (`lua/append.lua`). The message
names the lane and carries nothing: the journal has the batches, and their order. It may be lost (I4): the lease that `append` took for it
runs out, and then the next append, a worker's own watch (`apply.worker`) or the relay starts a shift.

Sending never holds up a flush: a thread of its own does it, so a slow broker costs nothing but the time until a shift starts.
"""

from __future__ import annotations

from functools import cache, partial

import structlog
from celery import current_app
from kombu.exceptions import OperationalError
from prometheus_client import Counter
from redis.exceptions import ConnectionError as RedisConnectionError

from runtime import breakers
from runtime.group_commit import GroupCommit
from sharding.lanes import Lane

TASK = "counters.apply"
DISPATCHED = Counter("tally_batches_dispatched_total", "Celery tasks sent to apply a lane", ["shard"])
UNDISPATCHED = Counter("tally_batches_undispatched_total", "Celery tasks that the broker did not take; workers find the lane", ["shard"])
_MOST = 4096  # lanes that wait for the broker
log = structlog.get_logger(__name__)


def queue_of(shard: int) -> str:
    """Name of a shard's queue."""
    return f"shard-{shard}"


def send(lane: Lane) -> bool:
    """Send the task of a lane now; whether the broker took it. A broker that gave no answer is left alone for some seconds."""
    task = partial(current_app.send_task, TASK, tuple(lane), queue=queue_of(lane.shard), ignore_result=True, retry=False)
    try:
        breakers.broker.call(task)
    except (OperationalError, RedisConnectionError, OSError) as error:
        _undispatched(lane, str(error))
        return False
    DISPATCHED.labels(lane.shard).inc()
    return True


def _send_all(lanes: list[Lane]) -> None:
    for lane in dict.fromkeys(lanes):
        send(lane)


def _undispatched(lane: Lane, error: str) -> None:
    UNDISPATCHED.labels(lane.shard).inc()
    log.warning("batch_undispatched", shard=lane.shard, lane=lane.number, error=error)


@cache
def _sender() -> GroupCommit[Lane]:
    return GroupCommit(_send_all, name="dispatch", most=_MOST)


def send_soon(lane: Lane) -> None:
    """Send it from the dispatch thread: a slow broker must not hold up the next flush, nor one that hangs fill the memory."""
    if _sender().waiting < _MOST:
        _sender().put(lane)
    else:
        _undispatched(lane, "too many wait for the broker")
