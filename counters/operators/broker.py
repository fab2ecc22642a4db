"""Celery's broker, for people and probes: whether it answers, and how many messages its queues have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import current_app
from django.conf import settings
from kombu.transport import redis, virtual


def depths() -> dict[str, int]:
    """Messages that no worker has taken, by queue, on a connection of its own. Raises kombu's `OperationalError`, or
    what the broker's library raises."""
    names = [queue.name for queue in settings.CELERY_TASK_QUEUES]
    with _channel() as channel:
        if isinstance(channel, virtual.Channel):  # such as Redis: a queue that is empty is none that can be declared
            return {name: channel._size(name) for name in names}
        return {name: channel.queue_declare(name, passive=True).message_count for name in names}


def info() -> dict[str, Any] | None:
    """INFO of the Redis that is the broker; None if the broker is no Redis. Raises as `depths`."""
    with _channel() as channel:
        if not isinstance(channel, redis.Channel):
            return None
        with channel.conn_or_acquire() as client:
            found: dict[str, Any] = client.info("everything")
            return found


@contextmanager
def _channel() -> Iterator[Any]:
    with current_app.connection_for_write() as connection:
        yield connection.default_channel
