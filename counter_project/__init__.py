"""Wiring only: settings, urls, the Celery app, server entry points."""

from runtime import garbage
from runtime.hidden import hidden

# structlog imports rich, if it can, for tracebacks on a console, and kombu yaml, for messages that no Tally sends: a tenth
# of the time that each process takes to start. redis imports OpenTelemetry's SDK, for metrics that nobody asked it for.
with garbage.postponed(), hidden("rich"), hidden("yaml"), hidden("opentelemetry"):
    import redis  # noqa: F401 - the settings would, later

    from counter_project.celery import app as celery_app

__all__ = ["celery_app"]
