"""Dispatch: send the Celery task that applies a lane.

`append` asks for a task if the lane has no shift and no task in flight (`lua/append.lua`). The message only names the
lane: the journal has the batches and their order. The message may be lost (I4): then the lease that `append` took for
it expires, and the next append, a worker's watch (`apply.worker`) or the relay starts a shift.

A separate thread sends, so a slow broker never delays a flush, only the start of a shift.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any

import structlog
from kombu.exceptions import OperationalError
from prometheus_client import Counter
from redis.exceptions import ConnectionError as RedisConnectionError

from counters.intake.lease import Lease
from runtime import breakers
from runtime.broker import broker
from runtime.resources import owned
from sharding.lanes import Lane

TASK = "counters.apply"
DRAIN_SECONDS = 10.0
DISPATCHED = Counter("tally_batches_dispatched_total", "Celery tasks sent to apply a lane", ["shard"])
UNDISPATCHED = Counter(
    "tally_batches_undispatched_total", "Celery tasks that the broker did not take; workers find the lane", ["shard"]
)
log = structlog.get_logger(__name__)


SPILL_QUEUE = "spill"


def queue_of(shard: int) -> str:
    """Name of a shard's queue."""
    return f"shard-{shard}"


def lane_queue(lane: Lane) -> str:
    """Name of the queue for a lane's tasks: its shard's, or the one of all spill queues."""
    return SPILL_QUEUE if lane.spills else queue_of(lane.shard)


def _arguments(lane: Lane) -> tuple[Any, ...]:
    """The arguments of a lane's task; those of a fresh queue do not name it, as before there were spill queues."""
    return tuple(lane) if lane.spills else (lane.shard, lane.number)


def ask_for(lane: Lane) -> bool:
    """Send a lane's task soon, unless it has a shift or a task. Returns whether it had none. Raises `RedisError`."""
    lease = Lease(lane)
    if lease.holder() is not None or not lease.hand_over():
        return False
    send_soon(lane)
    return True


def send(lane: Lane) -> bool:
    """Send a lane's task now. Returns whether the broker took it. A broker that did not answer is skipped for some
    seconds."""
    task = partial(broker().send_task, TASK, _arguments(lane), queue=lane_queue(lane), ignore_result=True, retry=False)
    try:
        breakers.broker().call(task)
    except (OperationalError, RedisConnectionError, OSError) as error:
        UNDISPATCHED.labels(lane.shard).inc()
        log.warning("batch_undispatched", shard=lane.shard, lane=lane.number, error=str(error))
        return False
    DISPATCHED.labels(lane.shard).inc()
    return True


class Sender:
    """Sends tasks from its own thread, from first use to `close`. A lane that is already queued is sent once."""

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

    def close(self) -> None:
        """Offer the queued tasks to the broker, for `DRAIN_SECONDS` at most: the relay sends the rest."""
        with suppress(TimeoutError):
            self._thread.submit(bool).result(DRAIN_SECONDS)  # runs after all queued tasks
        self._thread.shutdown(cancel_futures=True)


@owned(close=Sender.close)
def _sender() -> Sender:
    return Sender()


def send_soon(lane: Lane) -> None:
    """Queue a lane's task and return at once."""
    _sender().send_soon(lane)
