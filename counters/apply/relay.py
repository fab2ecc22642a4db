"""The relay: sends a task for each lane that has an overdue entry and no lease.

It sends at most one message per lane and round, and none while another is in flight or a shift runs, so a storm is
impossible. Workers watch their own lanes (`worker`). The relay is for a shard whose workers do not; its messages wait
in the queue for the next worker.
"""

from __future__ import annotations

import structlog
from django.conf import settings
from prometheus_client import Counter

from counters.intake import dispatch, journal
from counters.intake.journal import Journal
from counters.intake.lease import Lease
from sharding.lanes import FRESH

RELAYED = Counter("tally_batches_relayed_total", "Tasks that were sent again for an overdue batch", ["shard"])
log = structlog.get_logger(__name__)


def relay(shard: int) -> None:
    """Send a task for each lane of a shard whose oldest entry is overdue. Raises `RedisError`."""
    for lane in journal.spilled(shard):  # they are old by nature
        dispatch.ask_for(lane)
    for lane in journal.occupied(shard, (FRESH,)):
        entries, lease = Journal(lane), Lease(lane)
        if entries.is_overdue(settings.TALLY.overdue_seconds) and lease.holder() is None and lease.hand_over():
            log.warning("batch_overdue", shard=shard, lane=lane.number, seconds=round(entries.age(), 1))
            RELAYED.labels(shard).inc()
            dispatch.send(lane)
