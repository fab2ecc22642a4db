"""After a restore of a shard or of the journal: journal and cache are made to agree with what the shards have now.

A restore takes back what others have seen. Three things would go wrong (docs/backup.md):

- An older journal's clock may be behind versions that the shards have. New writes would get positions that are already
  behind a lane's cursor and its sets: increments would be void. So the clock is set past all of them.
- A newer journal may know a topology that no shard has any more, and would refuse all writes as routed by an old one.
- A newer cache has values that no server has any more, and refuses older ones (I5). So it is emptied.

A batch of an older journal that is older than a shard's ledger may or may not have been applied (I2). It is set aside,
for an operator to decide (I7).
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import structlog
from django.conf import settings

from counters.apply import partitions
from counters.intake import append, journal
from counters.intake.journal import Journal
from counters.intake.set_aside import SetAsideBatches
from counters.reading import cache
from sharding import topology

log = structlog.get_logger(__name__)


class Settled(NamedTuple):
    """`clock`: the newest position in use; how many entries the cache lost, and how many batches were set aside."""

    clock: int
    cached: int
    set_aside: int


def settle() -> Settled:
    """Make them agree. Safe to repeat, before writes are accepted. Raises `psycopg.Error`, `RedisError`, `NoTopology`,
    `TooFewCopies`."""
    shards = range(settings.TALLY.shard_count)
    clock = journal.set_clock(max(map(append.newest_version, shards)))
    journal.reopen(topology.reload().version)
    set_aside = sum(map(_set_aside, shards))
    settled = Settled(clock, cache.clear(), set_aside)
    log.warning("restored", **settled._asdict())
    return settled


def _set_aside(shard: int) -> int:
    """Set aside what is older than the shard's ledger. Returns how many batches. Raises `psycopg.Error`."""
    oldest = partitions.oldest(shard)
    if oldest is None:
        return 0
    count = 0
    for lane in journal.occupied(shard):
        for entry in Journal(lane).entries(through=_position(oldest)):
            SetAsideBatches(lane).add(entry, "older than the ledger: it may have been applied before the restore")
            count += 1
    return count


def _position(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) - 1
