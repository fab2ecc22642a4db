"""Gauges of what the journal's Redis holds, and of how many copies of the data there are, read at each scrape, so every
process exports the same values.

While Redis is down its gauges are missing, rather than outdated. Counters of a process's own work are defined beside
the code that increments them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import product

import structlog
from django.conf import settings
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from counters.apply import dead_letters, partitions
from counters.intake import copies, journal
from counters.intake.journal import Journal
from counters.intake.set_aside import SetAsideBatches, lanes_with_set_aside
from counters.operators import balancing, health, queues
from counters.operators import breakers as operated
from replication import archiving, healing, status
from replication.archiving import Archiving
from replication.outage import Outage
from runtime import breakers
from runtime.breakers import STATES
from runtime.looks import Looks, Result
from runtime.resources import NotOpen, owned
from sharding import databases, nodes
from sharding.lanes import FRESH, QUEUES, Queue

log = structlog.get_logger(__name__)

_SERVERS_FRESH_SECONDS = 5.0  # for which a look at the servers is shared


def _entries(shard: int) -> float:
    return sum(Journal(lane).depth() for lane in journal.occupied(shard, (FRESH,)))


def _age(shard: int) -> float:
    return max((0.0, *(Journal(lane).age() for lane in journal.occupied(shard, (FRESH,)))))


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
BY_QUEUE: tuple[tuple[str, str, Callable[[int, Queue], float]], ...] = (
    (
        "tally_backlog_increments",
        "Increments in the journal, by queue",
        lambda shard, queue: journal.backlog(shard, queue).increments,
    ),
    (
        "tally_backlog_bytes",
        "Bytes of batches in the journal, by queue",
        lambda shard, queue: journal.backlog(shard, queue).bytes,
    ),
    (
        "tally_backlog_age_seconds",
        "Age of the oldest entry of the queue; 0 if it is empty",
        lambda shard, queue: max((0.0, *(Journal(lane).age() for lane in journal.occupied(shard, (queue,))))),
    ),
)
BY_REPLICA: tuple[tuple[str, str, Callable[[Outage], float]], ...] = (
    (
        "tally_replica_not_following_seconds",
        "How long the replica has not followed its primary, as of the last look; no value for one that follows",
        lambda outage: outage.seen - outage.since,
    ),
    (
        "tally_replica_attempts",
        "Attempts to copy the replica again that have not helped; no value for one that follows",
        lambda outage: outage.attempts,
    ),
)


class JournalCollector(Collector):
    """The gauges, for `prometheus_client`'s registry."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families without values: registration needs no Redis."""
        return _families()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The families with their current values, or without values while Redis is down. Flower opens no `Resources`
        and shows none either."""
        try:
            return breakers.journal().call(_measured)
        except (RedisError, NotOpen) as error:
            log.warning("gauges_missing", error=str(error))
            return _families()


def _families() -> list[GaugeMetricFamily]:
    by_shard = [GaugeMetricFamily(name, text, labels=["shard"]) for name, text, _ in BY_SHARD]
    by_queue = [GaugeMetricFamily(name, text, labels=["shard", "queue"]) for name, text, _ in BY_QUEUE]
    by_replica = [GaugeMetricFamily(name, text, labels=["shard", "node"]) for name, text, _ in BY_REPLICA]
    return [
        *by_shard,
        *by_queue,
        *by_replica,
        GaugeMetricFamily(
            "tally_journal_one_copy", "1 while writes are accepted although a replica of the journal is missing"
        ),
        GaugeMetricFamily("tally_dead_letters_kept", "Messages that no task could take and that wait for an operator"),
    ]


def _measured() -> list[GaugeMetricFamily]:
    *families, one_copy, letters = _families()
    by_shard, families_left = families[: len(BY_SHARD)], families[len(BY_SHARD) :]
    by_queue, by_replica = families_left[: len(BY_QUEUE)], families_left[len(BY_QUEUE) :]
    for family, (_, _, measure) in zip(by_shard, BY_SHARD, strict=True):
        for shard in range(settings.TALLY.shard_count):
            family.add_metric([str(shard)], measure(shard))
    for family, (_, _, held) in zip(by_queue, BY_QUEUE, strict=True):
        for shard, queue in product(range(settings.TALLY.shard_count), QUEUES):
            family.add_metric([str(shard), queue], held(shard, queue))
    outages = healing.not_following()
    for family, (_, _, seen) in zip(by_replica, BY_REPLICA, strict=True):
        for replica, outage in outages.items():
            family.add_metric(list(replica), seen(outage))
    one_copy.add_metric([], copies.is_one_copy())
    letters.add_metric([], dead_letters.count())
    return [*families, one_copy, letters]


class BreakerCollector(Collector):
    """The states of the breakers: those of the shards, which all processes share, and this process's own. For API
    processes."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families without values: registration needs no Redis."""
        return [
            GaugeMetricFamily(
                "tally_breaker_state",
                "1 for the state that the breaker of this component has: closed, half-open or open",
                labels=["component", "state"],
            ),
            GaugeMetricFamily(
                "tally_breaker_held",
                "1 while an operator holds the breaker of this component open",
                labels=["component"],
            ),
        ]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The families with their values."""
        state, held = families = list(self.describe())
        for name, found, is_held in operated.states():
            for one in STATES:
                state.add_metric([name, one], one == found)
            held.add_metric([name], is_held)
        return families


class BalancerCollector(Collector):
    """Which API processes the load balancer leaves out. Nothing where nobody tells. For API processes."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The family without values: registration needs no Redis."""
        return [
            GaugeMetricFamily(
                "tally_api_left_out", "1 while the load balancer sends this API process no requests", labels=["process"]
            )
        ]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The family with its values."""
        (found,) = families = list(self.describe())
        with suppress(RedisError):
            state = breakers.journal().call(balancing.look)
            for name in state.serving if state else ():
                found.add_metric([name], 0)
            for name in state.left_out if state else ():
                found.add_metric([name], 1)
        return families


class CopiesCollector(Collector):
    """How many copies of the data there are, as the last look saw it: see `health`. For API processes."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families without values: registration needs no server."""
        return [
            GaugeMetricFamily(
                "tally_shard_copies",
                "A shard's primary and the replicas that stream from it; 0 while no primary answers",
                labels=["shard"],
            ),
            GaugeMetricFamily("tally_shard_copies_wanted", "The servers that the settings name", labels=["shard"]),
            GaugeMetricFamily(
                "tally_journal_copies", "The journal's Redis and its replicas; 0 while it does not answer"
            ),
            GaugeMetricFamily("tally_journal_copies_wanted", "The copies of the journal that the settings ask for"),
        ]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The families with their values."""
        of_shard, wanted_of_shard, of_journal, wanted_of_journal = families = list(self.describe())
        found = health.look().result().redundancy
        for shard in found.shards:
            of_shard.add_metric([str(shard.shard)], shard.copies)
            wanted_of_shard.add_metric([str(shard.shard)], shard.wanted)
        of_journal.add_metric([], found.journal)
        wanted_of_journal.add_metric([], found.journal_wanted)
        return families


class LagCollector(Collector):
    """How far replicas are behind, as their primaries see it. Nothing for a replica that is not connected. For API
    processes."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families without values: registration needs no server."""
        return [
            GaugeMetricFamily(
                "tally_replica_lag_seconds",
                "How long the replica took to replay what it replayed last; 0 if it has replayed all",
                labels=["shard", "node"],
            ),
            GaugeMetricFamily(
                "tally_replica_lag_bytes", "WAL that the replica has not replayed yet", labels=["shard", "node"]
            ),
        ]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The families with their values."""
        seconds, size = families = list(self.describe())
        for shard, lags in _lags().look().result().items():
            for node, lag in {} if isinstance(lags, BaseException) else lags.items():
                seconds.add_metric([shard, node], lag.seconds or 0.0)
                size.add_metric([shard, node], lag.bytes or 0)
        return families


@owned(close=Looks.close)
def _lags() -> Looks[Mapping[str, Result]]:
    checks = {str(shard): partial(status.lags, shard, health.SECONDS) for shard in range(settings.TALLY.shard_count)}
    return Looks(checks, lambda results, _began: results, seconds=health.SECONDS, fresh_seconds=_SERVERS_FRESH_SECONDS)


class LaneCollector(Collector):
    """The lanes: what waits in each, and who applies it. For API processes."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families without values: registration needs no Redis."""
        return [
            GaugeMetricFamily("tally_lane_entries", "Batches in the lane's fresh queue", labels=["shard", "lane"]),
            GaugeMetricFamily(
                "tally_lane_age_seconds", "Age of the oldest of them; 0 if there is none", labels=["shard", "lane"]
            ),
            GaugeMetricFamily(
                "tally_lane_worker", "1 for the worker that applies the lane now", labels=["shard", "lane", "worker"]
            ),
        ]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The families with their values, or without while Redis is down."""
        entries, ages, workers = families = list(self.describe())
        with suppress(RedisError):
            for one in breakers.journal().call(queues.look).lanes:
                shard, _, lane = one.lane.partition(".")
                entries.add_metric([shard, lane], one.batches)
                ages.add_metric([shard, lane], one.age)
                if one.holder:
                    workers.add_metric([shard, lane, one.holder], 1)
        return families


class PoolCollector(Collector):
    """This process's pools of connections to PostgreSQL."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families without values."""
        return [
            GaugeMetricFamily(
                "tally_pool_connections",
                "Connections of this process to a database, those in use and idle ones",
                labels=["database", "state"],
            ),
            GaugeMetricFamily(
                "tally_pool_waiting", "Queries that wait for a connection of the pool", labels=["database"]
            ),
        ]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The families with their values."""
        connections, waiting = families = list(self.describe())
        for alias, state in databases.pools().items():
            connections.add_metric([alias, "used"], state.used)
            connections.add_metric([alias, "idle"], state.idle)
            waiting.add_metric([alias], state.waiting)
        return families


class ArchiveCollector(Collector):
    """What the servers' archivers say. Nothing for servers that archive no WAL, or do not answer. For API processes."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """The families without values: registration needs no server."""
        return [
            GaugeMetricFamily(
                "tally_wal_unarchived_files", "Files of WAL that wait to be archived", labels=["shard", "node"]
            ),
            GaugeMetricFamily(
                "tally_wal_archive_failing", "1 while the last attempt to archive WAL failed", labels=["shard", "node"]
            ),
        ]

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The families with their values."""
        waiting, failing = families = list(self.describe())
        for name, found in _archivers().look().result().items():
            if isinstance(found, Archiving):
                waiting.add_metric([name.partition(" ")[0], found.node], found.waiting)
                failing.add_metric([name.partition(" ")[0], found.node], found.fails)
        return families


@owned(close=Looks.close)
def _archivers() -> Looks[Mapping[str, Result]]:
    checks = {
        f"{shard} {number}": partial(archiving.ask, shard, node)
        for shard in range(settings.TALLY.shard_count)
        for number, node in enumerate(nodes.of(shard))
    }
    return Looks(checks, lambda results, _began: results, seconds=health.SECONDS, fresh_seconds=_SERVERS_FRESH_SECONDS)
