"""The Django app of counters."""

from django.apps import AppConfig


class CountersConfig(AppConfig):
    """Registers the gauges of every process."""

    name = "counters"

    def ready(self) -> None:
        from prometheus_client import REGISTRY

        from counters.operators.gauges import JournalCollector, PoolCollector

        REGISTRY.register(JournalCollector())
        REGISTRY.register(PoolCollector())
