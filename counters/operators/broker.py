"""Celery's broker, for people and probes: whether it answers, and how many messages its queues have."""

from __future__ import annotations

from typing import Any

from celery import current_app
from django.conf import settings
from kombu.transport import virtual


def depths() -> dict[str, int]:
    """Messages that no worker has taken, by queue, on a connection of its own. Raises kombu's `OperationalError`, or
    what the broker's library raises."""
    names = [queue.name for queue in settings.CELERY_TASK_QUEUES]
    with current_app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        if isinstance(channel, virtual.Channel):  # such as Redis: a queue that is empty is none that can be declared
            return {name: channel._size(name) for name in names}
        return {name: channel.queue_declare(name, passive=True).message_count for name in names}
