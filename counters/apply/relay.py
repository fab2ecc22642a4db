"""The relay: a lane whose journal has something overdue and that nobody applies gets a task.

One message a lane and round at most, and none while another is under way or a shift runs, so a storm is impossible.
Workers look after their lanes themselves (`worker`); the relay is for a shard whose workers do not, and what it sends
waits for the next one in the queue.
"""

from __future__ import annotations

import structlog
from django.conf import settings
from prometheus_client import Counter

from counters.intake import dispatch, journal
from counters.intake.journal import Journal
from counters.intake.lease import Lease

RELAYED = Counter("tally_batches_relayed_total", "Tasks that were sent again for an overdue batch", ["shard"])
log = structlog.get_logger(__name__)


def relay(shard: int) -> None:
    """Send a task for each lane of a shard whose oldest entry is overdue. Raises `RedisError`."""
    for lane in journal.occupied(shard):
        age, lease = Journal(lane).age(), Lease(lane)
        if age > settings.TALLY.overdue_seconds and lease.holder() is None and lease.hand_over():
            log.warning("batch_overdue", shard=shard, lane=lane.number, seconds=round(age, 1))
            RELAYED.labels(shard).inc()
            dispatch.send(lane)
