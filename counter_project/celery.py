"""The Celery app: one queue per shard (`shard-N`), `low-priority` for long tasks, `maintenance` for all others."""

from __future__ import annotations

import os
from typing import Any

import structlog
from celery import Celery
from celery.signals import after_task_publish, beat_init, setup_logging, worker_init, worker_shutdown

from runtime import metrics
from runtime.resources import Resources, owned

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counter_project.settings")

app = Celery("tally")
resources = Resources()
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["counters.apply", "counters.reconciliation"])


@setup_logging.connect
def keep_logging(**_: Any) -> None:
    """Leave logging to Django's settings."""


@owned(close=metrics.Server.close)
def metrics_server() -> metrics.Server:
    """The server of /metrics on `TALLY_METRICS_PORT`."""
    from django.conf import settings

    port: Any = settings.TALLY.metrics_port
    return metrics.Server(port, settings.TALLY.metrics_token.get_secret_value())


@worker_init.connect
@beat_init.connect
def open_resources(**_: Any) -> None:
    """Open what this worker, or beat, holds. Serve its /metrics if it has a port for them."""
    from django.conf import settings

    resources.open()
    if settings.TALLY.metrics_port:
        metrics_server().open()


@worker_shutdown.connect
def close_resources(**_: Any) -> None:
    """Close it, once no transaction is open. Beat has no such signal and ends with what it holds."""
    resources.close()


@beat_init.connect
def send_heartbeats(**_: Any) -> None:
    """Record when beat last sent a task, for /health."""
    from redis.exceptions import RedisError

    from runtime import heartbeats

    def sent(**_: Any) -> None:
        try:
            heartbeats.beat({"beat": 0.0})
        except RedisError as error:
            structlog.get_logger(__name__).warning("heartbeat_unsent", error=str(error))

    after_task_publish.connect(sent, weak=False)
