"""Upgrade from the version before lanes: a shard's one journal becomes its lane 0's, then the shards get their
lanes."""

from __future__ import annotations

import structlog
from django.conf import settings

from counters.apply import lane_count
from counters.intake.journal import Journal
from counters.intake.set_aside import SetAsideBatches
from runtime import redis
from sharding import topology
from sharding.lanes import Lane

log = structlog.get_logger(__name__)


def upgrade(*, seconds: float) -> str:
    """Give shards without lanes the number of lanes in the settings, once.

    Returns what was done, or why it was not. Raises `RedisError`.
    """
    shards = range(settings.TALLY.shard_count)
    for shard in shards:
        adopt_shard_journal(shard)
    if not topology.is_without_lanes(len(shards)):
        return ""
    try:
        lane_count.change(settings.TALLY.lanes, seconds=seconds)
    except lane_count.NotDrained as error:
        return f"each shard keeps one lane for now: {error}; manage.py lanes {settings.TALLY.lanes} tries again"
    return f"each shard has {settings.TALLY.lanes} lanes now"


def adopt_shard_journal(shard: int) -> int:
    """Move a shard's journal from before lanes to its lane 0. Returns the number of entries.

    Raises `RedisError`.
    """
    lane, old = Lane(shard, 0), f"journal:{shard}"
    journal, set_aside = Journal(lane), SetAsideBatches(lane)
    found = redis.journal().zrange(f"{old}:positions", 0, -1, withscores=True)
    moved = {journal.batches_key: f"{old}:batches", set_aside.key: f"{old}:poison"}
    batches = {key: redis.journal().hgetall(before) for key, before in moved.items()}
    with redis.journal().pipeline(transaction=True) as pipe:
        if found:
            pipe.zadd(journal.positions_key, dict(found), nx=True)
        for key, entries in batches.items():
            if entries:
                pipe.hset(key, mapping=entries)
        pipe.delete(*(f"{old}:{name}" for name in ("positions", "batches", "poison", "asleep", "pace", "degraded")))
        pipe.execute()
    if found:
        log.info("shard_journal_adopted", lane=str(lane), entries=len(found))
    return len(found)
