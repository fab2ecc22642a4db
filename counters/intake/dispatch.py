"""Dispatch: the Celery task that applies a lane.

A task is sent when something was appended to a lane that nobody applies and for which no task is under way
(`lua/append.lua`). The message names the lane and carries nothing: the journal has the batches, and their order. It may
be lost (I4): the lease that `append` took for it runs out, and then the next append, a worker's own watch
(`apply.worker`) or the relay starts a shift.

Sending never holds up a flush: a thread of its own does it, so a slow broker costs nothing but the time until a shift
starts.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock

import structlog
from celery import current_app
from kombu.exceptions import OperationalError
from prometheus_client import Counter
from redis.exceptions import ConnectionError as RedisConnectionError

from runtime import breakers
from sharding.lanes import Lane

TASK = "counters.apply"
DISPATCHED = Counter("tally_batches_dispatched_total", "Celery tasks sent to apply a lane", ["shard"])
UNDISPATCHED = Counter(
    "tally_batches_undispatched_total", "Celery tasks that the broker did not take; workers find the lane", ["shard"]
)
log = structlog.get_logger(__name__)


def queue_of(shard: int) -> str:
    """Name of a shard's queue."""
    return f"shard-{shard}"


def send(lane: Lane) -> bool:
    """Send the task of a lane now; whether the broker took it. A broker that gave no answer is left alone for some
    seconds."""
    task = partial(
        current_app.send_task, TASK, tuple(lane), queue=queue_of(lane.shard), ignore_result=True, retry=False
    )
    try:
        breakers.broker.call(task)
    except (OperationalError, RedisConnectionError, OSError) as error:
        UNDISPATCHED.labels(lane.shard).inc()
        log.warning("batch_undispatched", shard=lane.shard, lane=lane.number, error=str(error))
        return False
    DISPATCHED.labels(lane.shard).inc()
    return True


class Sender:
    """Sends tasks from a thread of its own, which starts when it is first needed. A lane that waits already is sent
    once."""

    def __init__(self) -> None:
        self._waiting: set[Lane] = set()
        self._lock = Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dispatch")

    def send_soon(self, lane: Lane) -> None:
        """Send the task of a lane, and do not wait for that."""
        with self._lock:
            if lane in self._waiting:
                return
            self._waiting.add(lane)
        self._thread.submit(self._send, lane)

    def _send(self, lane: Lane) -> None:
        with self._lock:
            self._waiting.discard(lane)
        try:
            send(lane)
        except Exception:
            log.exception("dispatch_failed", lane=str(lane))

    def drain(self, seconds: float) -> bool:
        """Wait until the broker has been offered all that waits; whether that was so in time."""
        try:
            self._thread.submit(bool).result(seconds)  # the thread comes to it last
        except TimeoutError:
            return False
        return True


_sender = Sender()
send_soon = _sender.send_soon
drain = _sender.drain
