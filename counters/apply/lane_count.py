"""Change the number of lanes: close and drain the journals, then give every shard the new map.

Meanwhile, for seconds, writes are refused with 503. A lane's journal was routed by the old map, and order is only kept
within a lane, so the journals must be empty before the new map comes into force. If they are not in time, the old map
stays.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from django.conf import settings

from counters.apply.worker import Worker
from counters.intake import journal
from counters.intake.journal import Journal
from counters.intake.lease import Lease
from runtime import polling
from sharding import lanes, topology
from sharding.topology import Topology

_CLOSED_SECONDS = 10.0  # how long the journals stay closed if this process dies
_PAUSE_SECONDS = 0.1
log = structlog.get_logger(__name__)

Tell = Callable[[int], None]  # gets the number of batches left


class NotDrained(Exception):
    """Some lane has batches that are not applied, or that the required replicas do not have."""


def change(count: int, *, seconds: float, tell: Tell = lambda _: None) -> Topology:
    """Give every shard `count` lanes. Raises `NotDrained` (nothing was changed), `ValueError`, `RedisError`,
    `TooFewCopies`, `psycopg.Error`."""
    lanes.check(count)
    version = topology.reload().version
    try:
        _drain(seconds, tell)
        changed = topology.change_lanes(settings.TALLY.shard_count, count)
        version = changed.version
    finally:
        journal.reopen(version)
    log.info("lanes_changed", lanes=count, topology_version=version)
    return changed


def _drain(seconds: float, tell: Tell) -> None:
    """Close the journals and apply all their entries, alongside any workers. Raises `NotDrained`."""
    shards = range(settings.TALLY.shard_count)
    worker = Worker("lanes", shards, spills=True)
    try:
        for _ in polling.attempts(seconds, pause=_PAUSE_SECONDS):
            journal.close(_CLOSED_SECONDS)
            occupied = [lane for shard in shards for lane in journal.occupied(shard)]
            tell(sum(Journal(lane).depth() for lane in occupied))
            if not occupied:
                return
            for lane in occupied:
                if Lease(lane).holder() is None:
                    worker.apply(lane)
        raise NotDrained(f"lane {', '.join(map(str, occupied))}: not applied and replicated within {seconds:g} s")
    finally:
        worker.close()
