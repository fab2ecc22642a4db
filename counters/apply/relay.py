"""The relay: an entry that is overdue is dispatched again, under its own id.

One message a shard and round is enough, and so a storm is impossible: it wakes the worker, which takes all that the journal has from
that entry on. What counts as overdue follows the worker's pace: a worker that is busy with long transactions is not disturbed.
"""

from __future__ import annotations

import structlog
from django.conf import settings
from prometheus_client import Counter

from counters.intake import dispatch, journal

RELAYED = Counter("tally_batches_relayed_total", "Overdue batches that were dispatched again", ["shard"])
_PACES = 3  # transactions of the worker
log = structlog.get_logger(__name__)


def relay(shard: int) -> None:
    """Dispatch the oldest entry of a shard if it is overdue. Raises `RedisError`."""
    entries = journal.entries(shard, limit=1)
    if not entries:
        return
    oldest = entries[0]
    age = (journal.now() - oldest.position) / 1e6
    if age > settings.TALLY.overdue_seconds + _PACES * journal.pace(shard):
        log.warning("batch_overdue", shard=shard, batch=oldest.id.hex, seconds=round(age, 1))
        RELAYED.labels(shard).inc()
        dispatch.send(shard, oldest.id, oldest.position, again=True)
