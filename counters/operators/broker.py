"""Celery's broker, for people and probes: whether it answers, and how many messages its queues have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from celery import current_app
from django.conf import settings
from kombu import Connection
from kombu.transport import redis, virtual

from runtime.resources import owned


def depths() -> dict[str, int]:
    """Messages that no worker has taken, by queue. Raises kombu's `OperationalError`, or what the broker's library
    raises."""
    names = [queue.name for queue in settings.CELERY_TASK_QUEUES]
    with _channel() as channel:
        if isinstance(channel, redis.Channel):
            return _lengths(channel, names)
        if isinstance(channel, virtual.Channel):  # a queue that is empty is none that can be declared
            return {name: channel._size(name) for name in names}
        return {name: channel.queue_declare(name, passive=True).message_count for name in names}


def _lengths(channel: Any, names: Sequence[str]) -> dict[str, int]:
    """The lengths of a Redis' lists in one round trip: a queue has one for each priority."""
    steps = channel.priority_steps
    with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
        for name in names:
            for step in steps:
                pipe.llen(channel._q_for_pri(name, step))
        found = iter(pipe.execute())
    return {name: sum(islice(found, len(steps))) for name in names}


def info() -> dict[str, Any] | None:
    """INFO of the Redis that is the broker; None if the broker is no Redis. Raises as `depths`."""
    with _channel() as channel:
        if not isinstance(channel, redis.Channel):
            return None
        with channel.conn_or_acquire() as client:
            found: dict[str, Any] = client.info("everything")
            return found


def _release(connections: list[Connection]) -> None:
    for connection in connections:
        connection.release()


@owned(close=_release)
def _idle() -> list[Connection]:
    """Connections to a Redis that nobody uses now."""
    return []


@contextmanager
def _channel() -> Iterator[Any]:
    """A channel for one caller. One to a Redis is kept for the next: to connect takes more processor time than to ask,
    and redis-py connects again where the server has closed a connection."""
    idle = _idle()
    try:
        connection = idle.pop()
    except IndexError:
        connection = current_app.connection_for_write()
    try:
        yield (channel := connection.default_channel)
    except BaseException:
        connection.release()
        raise
    if isinstance(channel, redis.Channel):
        idle.append(connection)
    else:
        connection.release()
