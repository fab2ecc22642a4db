"""Dispatch: send the Celery task that applies a lane.

`append` asks for a task if the lane has no shift and no task in flight (`lua/append.lua`). The message only names the
lane: the journal has the batches and their order. The message may be lost (I4): then the lease that `append` took for
it expires, and the next append, a worker's watch (`apply.worker`) or the relay starts a shift.

A separate thread sends, so a slow broker never delays a flush, only the start of a shift.
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
    """Send a lane's task now. Returns whether the broker took it. A broker that did not answer is skipped for some
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
    """Sends tasks from its own thread, which starts on first use. A lane that is already queued is sent once."""

    def __init__(self) -> None:
        self._waiting: set[Lane] = set()
        self._lock = Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dispatch")

    def send_soon(self, lane: Lane) -> None:
        """Queue a lane's task and return at once."""
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
        """Wait until the broker has been offered every queued task. Returns False after `seconds`."""
        try:
            self._thread.submit(bool).result(seconds)  # runs after all queued tasks
        except TimeoutError:
            return False
        return True


_sender = Sender()
send_soon = _sender.send_soon
drain = _sender.drain
