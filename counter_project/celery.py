"""The Celery app: one queue per shard (`shard-N`), `low-priority` for long tasks, `maintenance` for all others."""

from __future__ import annotations

import os
from typing import Any

import structlog
from celery import Celery
from celery.signals import (
    after_task_publish,
    beat_init,
    celeryd_after_setup,
    setup_logging,
    worker_init,
    worker_shutdown,
)

from runtime import garbage, metrics
from runtime.resources import Resources

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counter_project.settings")
os.environ.setdefault("CELERY_SKIP_CHECKS", "true")  # Django's: they load all views. `manage.py check` makes them

app = Celery("tally")
resources = Resources()
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["counters.apply", "counters.reconciliation", "likes"])


@setup_logging.connect
def keep_logging(**_: Any) -> None:
    """Leave logging to Django's settings."""


@worker_init.connect
@beat_init.connect
def open_resources(**_: Any) -> None:
    """Open what this worker, or beat, holds. Serve its /metrics if it has a port for them."""
    resources.open()
    metrics.serve()
    garbage.begin()


@celeryd_after_setup.connect
def begin_recording(sender: str, instance: Any, **_: Any) -> None:
    """Have this worker record the last minutes for /status, in turn with others, if it does the odd jobs."""
    if app.conf.task_default_queue in instance.app.amqp.queues.consume_from:
        from counters.operators import recording

        recording.recorder().open(sender)


@worker_shutdown.connect
def close_resources(**_: Any) -> None:
    """Close it, once no transaction is open. Beat has no such signal and ends with what it holds."""
    resources.close()


@beat_init.connect
def begin_beat(**_: Any) -> None:
    """Record when beat last sent a task, for /health. If nothing is known of a beat, its start counts as a task, as
    the first one is due then."""
    from redis.exceptions import RedisError

    from runtime import heartbeats

    def sent(*, began: bool = False, **_: Any) -> None:
        try:
            if not (began and "beat" in heartbeats.known()):
                heartbeats.beat({"beat": 0.0})
        except RedisError as error:
            structlog.get_logger(__name__).warning("heartbeat_unsent", error=str(error))

    after_task_publish.connect(sent, weak=False)
    sent(began=True)
