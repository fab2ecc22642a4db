"""The Django app of counters."""

from django.apps import AppConfig


class CountersConfig(AppConfig):
    """Registers the journal's gauges."""

    name = "counters"

    def ready(self) -> None:
        from prometheus_client import REGISTRY

        from counters.operators.gauges import JournalCollector

        REGISTRY.register(JournalCollector())
