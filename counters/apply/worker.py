"""What one worker process owns: its name, its shards, what its shifts share (connections, refresher, since when batches
wait for replicas, what all copies of the journal have), and its watch.

The watch is for lanes that no message reaches, because the broker is down or lost it. It looks at the worker's lanes
every second, and runs a shift for each neglected one. As long as messages arrive, it finds none. Spill queues may wait:
for those it only sends tasks. It also puts values into the cache that could not be put at once, sends the worker's
heartbeats (that it runs, that it consumes its queues, and when its last shift of each shard ended: `operators.processes`
reads them), minds the copies of the journal, and lets its breakers follow what operators order.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event, Lock, Semaphore, Thread

import structlog
from django.conf import settings
from prometheus_client import Counter as Metric
from redis.exceptions import RedisError

from counters.apply.completion import Waiting
from counters.apply.connections import Connections
from counters.apply.refresher import Refresher
from counters.apply.report import APPLIED, ROWS, Report
from counters.apply.shift import Shift
from counters.apply.spill import SpillShift
from counters.intake import copies, dispatch, journal
from counters.intake.confirmed import Confirmed
from counters.intake.journal import Journal, JournalUnavailable
from counters.intake.lease import Lease
from runtime import breaker_holds, heartbeats
from runtime.pulses import Teller
from sharding.connection_budget import SPILL_SHIFTS
from sharding.lanes import FRESH, MOST, Lane

LOOK_SECONDS = 1.0  # between looks of the watch, and the age from which an entry may be neglected
TAKEN = Metric("tally_lanes_taken_total", "Shifts that a worker began by itself, as no message had come", ["shard"])
CONSUMES_SECONDS = 6.0  # after Celery's last heartbeat (it has one every 2 s), in which a worker counts as consuming
_AT_ONCE = 2  # shifts of one lane: one that is ending, and the next
log = structlog.get_logger(__name__)


class Worker:
    """One worker. `open` starts the watch, which first takes over what a predecessor left.

    `stop` ends all its shifts after their current transactions; `close` waits for that.
    """

    def __init__(
        self, name: str, shards: Collection[int], queues: Collection[str] = (), *, spills: bool = False
    ) -> None:
        """`queues`: all that Celery consumes for this worker. `spills`: it applies the spill queues of all shards."""
        self.name, self.shards, self._queues, self.spills = name, sorted(shards), queues, spills
        self._spill_places = Semaphore(SPILL_SHIFTS)
        self._consumed_at = -CONSUMES_SECONDS  # monotonic seconds
        self._shift_ended: dict[int, float] = {}  # by shard, monotonic seconds
        self._connections, self._refresher = Connections(), Refresher()
        self._waiting, self._confirmed = Waiting(), Confirmed()
        self._stopping = Event()
        self._watch = Thread(target=self._look, name="watch", daemon=True)
        self._shifts = ThreadPoolExecutor(MOST, thread_name_prefix="watch")
        self._running: Counter[Lane] = Counter()  # shifts of each lane, in this process
        self._lock = Lock()

    def open(self) -> None:
        self._watch.start()

    def consumes(self) -> None:
        """Note that Celery's consumer works."""
        self._consumed_at = time.monotonic()

    def stop(self) -> None:
        """Safe to call from a signal handler."""
        self._stopping.set()

    def close(self) -> None:
        self.stop()
        self._shifts.shutdown(cancel_futures=True)
        self._connections.close()

    def takes(self, lane: Lane) -> bool:
        """Whether it applies this lane."""
        if lane.spills:
            return self.spills and lane.shard < settings.TALLY.shard_count
        return lane.shard in self.shards

    def apply(self, lane: Lane) -> Report:
        """Run one shift of a lane, and send the next task if there is more. If the broker does not take it, run the
        next shift here.

        Does nothing if this worker already runs two shifts of the lane. A blocked shift loses its lease, and its
        successors wait for the same lock: without a bound they would take thread after thread from the other lanes. Spill
        queues leave threads to other tasks, too: one that finds no place is found again.
        """
        report = Report(*lane)
        if not lane.spills:
            self._apply(lane, report)
        elif self._spill_places.acquire(blocking=False):
            try:
                self._apply(lane, report)
            finally:
                self._spill_places.release()
        return report

    def _apply(self, lane: Lane, report: Report) -> None:
        with self._lock:
            if self._running[lane] >= _AT_ONCE:
                return
            self._running[lane] += 1
        try:
            while self._shift(lane, report).run():
                if dispatch.send(lane) or self._stopping.is_set():
                    break
        finally:
            with self._lock:
                self._running[lane] -= 1
            if not lane.spills:
                self._shift_ended[lane.shard] = time.monotonic()

    def _shift(self, lane: Lane, report: Report) -> Shift:
        kind = SpillShift if lane.spills else Shift
        return kind(
            lane,
            report,
            worker=self.name,
            connections=self._connections,
            refresher=self._refresher,
            waiting=self._waiting,
            confirmed=self._confirmed,
            stopping=self._stopping,
        )

    def _look(self) -> None:
        keeper = copies.Keeper()
        teller = Teller("worker", self.name, {"batches": (APPLIED,), "rows": (ROWS,)})
        with suppress(RedisError):
            self._take_over()
        while not self._stopping.wait(LOOK_SECONDS):
            self._refresher.put_left()
            try:
                breaker_holds.follow()
                heartbeats.beat(self._heartbeats())
                keeper.mind()
                for lane in filter(is_neglected, self._occupied()):
                    self._take(lane)
                self._ask_for_spilled()
            except (RedisError, JournalUnavailable) as error:
                log.debug("watch_blind", error=str(error))
            with suppress(RedisError):
                teller.tell()

    def _heartbeats(self) -> dict[str, float]:
        """Names and ages in seconds."""
        now = time.monotonic()
        kinds = ["worker", "consumer"] if now - self._consumed_at < CONSUMES_SECONDS else ["worker"]
        found = {f"{kind} {queue} {self.name}": 0.0 for kind in kinds for queue in self._queues}
        return found | {f"shift {shard} {self.name}": now - ended for shard, ended in self._shift_ended.copy().items()}

    def _take_over(self) -> None:
        """Send tasks for what a predecessor of the same name left: its leases, and messages that died with it. Raises
        `RedisError`."""
        for lane in [*self._occupied(), *self._spilled()]:
            lease = Lease(lane)
            holder = lease.holder() or ""
            if holder.partition("#")[0] in {"", self.name} and lease.hand_over(holder):
                dispatch.send_soon(lane)  # a broker that hangs must not delay the watch

    def _occupied(self) -> list[Lane]:
        """The fresh queues of its shards that have entries. Raises `RedisError`."""
        return [lane for shard in self.shards for lane in journal.occupied(shard, (FRESH,))]

    def _spilled(self) -> list[Lane]:
        """The spill queues that it applies and that have entries. Raises `RedisError`."""
        shards = range(settings.TALLY.shard_count) if self.spills else ()
        return [lane for shard in shards for lane in journal.spilled(shard)]

    def _ask_for_spilled(self) -> None:
        """Send a task for each spill queue that has none: they may have found no place, or their message was lost. Raises
        `RedisError`."""
        for lane in self._spilled():
            dispatch.ask_for(lane)

    def _take(self, lane: Lane) -> None:
        TAKEN.labels(lane.shard).inc()
        log.warning("lane_taken", lane=str(lane))
        self._shifts.submit(self.apply, lane)


def is_neglected(lane: Lane) -> bool:
    """Whether a lane's journal has entries, but no shift applies them and no message arrives. Raises `RedisError`.

    While the broker is down, each append that finds the lease expired takes it again for a message. So a lease without
    a holder says little, and the age of the oldest entry decides.
    """
    holder = Lease(lane).holder()
    if holder:
        return False
    patience = LOOK_SECONDS if holder is None else LOOK_SECONDS + settings.TALLY.lease_seconds
    return Journal(lane).is_overdue(patience)
