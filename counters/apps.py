"""The Django app of counters."""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class CountersConfig(AppConfig):
    """Creates a freshly migrated shard's first time partitions (the beat creates later ones) and registers the
    journal's gauges."""

    name = "counters"

    def ready(self) -> None:
        from prometheus_client import REGISTRY

        from counters.operators.gauges import JournalCollector

        post_migrate.connect(_make_partitions, sender=self)
        REGISTRY.register(JournalCollector())


def _make_partitions(using: str, **_: Any) -> None:
    from counters.apply import partitions
    from sharding import databases

    if using != databases.CONTROL:
        partitions.create_ahead(databases.shard_of(using))
