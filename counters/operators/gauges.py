"""Gauges of what the journal's Redis holds, read at each scrape, so every process exports the same values.

While Redis is down the gauges are missing, rather than outdated. Counters of a process's own work are defined beside
the code that increments them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog
from django.conf import settings
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from counters.apply import dead_letters, partitions
from counters.intake import copies, journal
from counters.intake.journal import Journal
from counters.intake.set_aside import SetAsideBatches, lanes_with_set_aside
from runtime import breakers

log = structlog.get_logger(__name__)


def _entries(shard: int) -> float:
    return sum(Journal(lane).depth() for lane in journal.occupied(shard))


def _age(shard: int) -> float:
    return max((Journal(lane).age() for lane in journal.occupied(shard)), default=0.0)


def _set_aside(shard: int) -> float:
    return sum(SetAsideBatches(lane).count() for lane in lanes_with_set_aside(shard))


BY_SHARD: tuple[tuple[str, str, Callable[[int], float]], ...] = (
    ("tally_journal_entries", "Batches in the journal", _entries),
    ("tally_journal_age_seconds", "Age of the oldest entry of the journal; 0 if it is empty", _age),
    (
        "tally_batches_set_aside_kept",
        "Batches that could not be decoded or applied and wait for an operator",
        _set_aside,
    ),
    (
        "tally_partitions_maintained_at_seconds",
        "When the shard's time partitions were last made and dropped (Unix time)",
        partitions.maintained_at,
    ),
    ("tally_shard_degraded", "1 while the journal lets batches go that too few replicas have", journal.is_degraded),
)


class JournalCollector(Collector):
    """The gauges, for `prometheus_client`'s registry."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families without values: registration needs no Redis."""
        return _families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The families with their current values, or without values while Redis is down."""
        try:
            return breakers.journal.call(_measured)
        except RedisError as error:
            log.warning("gauges_missing", error=str(error))
            return _families()


def _families() -> list[GaugeMetricFamily]:
    by_shard = [GaugeMetricFamily(name, text, labels=["shard"]) for name, text, _ in BY_SHARD]
    return [
        *by_shard,
        GaugeMetricFamily(
            "tally_journal_one_copy", "1 while writes are accepted although a replica of the journal is missing"
        ),
        GaugeMetricFamily("tally_dead_letters_kept", "Messages that no task could take and that wait for an operator"),
    ]


def _measured() -> list[GaugeMetricFamily]:
    *by_shard, one_copy, letters = _families()
    for family, (_, _, measure) in zip(by_shard, BY_SHARD, strict=True):
        for shard in range(settings.TALLY.shard_count):
            family.add_metric([str(shard)], measure(shard))
    one_copy.add_metric([], copies.is_one_copy())
    letters.add_metric([], dead_letters.count())
    return [*by_shard, one_copy, letters]
