"""Wiring only: settings, urls, the Celery app, server entry points."""

from runtime import garbage
from runtime.hidden import hidden, without_plugins

# structlog imports rich, if it can, for tracebacks on a console, kombu yaml, for messages that no Tally sends, and redis
# opentelemetry, for figures that nobody asks it for: a tenth of the time that each process takes to start.
with garbage.postponed(), hidden("rich"), hidden("yaml"), hidden("opentelemetry"), without_plugins():
    import redis  # noqa: F401 - before others do

    from counter_project.celery import app as celery_app

__all__ = ["celery_app"]
